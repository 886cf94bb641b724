"""The look of the report page."""

CSS = """
:root{--page:#f6f7f9;--panel:#fff;--text:#1c2430;--quiet:#667180;--line:#dde2e9;--series-1:#2563c9;--series-2:#d2691e;
--series-3:#2f8f5b;--series-4:#8e4ec6;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--panel:#1b212a;--text:#e4e9f0;--quiet:#93a0b0;--line:#2e3744;
--series-1:#6aa5ff;--series-2:#f0a35e;--series-3:#66c896;--series-4:#c39bf0}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:28px;margin:0}h2{font-size:19px;margin:34px 0 10px}h3{font-size:13px;font-weight:500;margin:0 0 6px}
header p{margin:2px 0}.quiet{color:var(--quiet);font-size:13px;margin:2px 0 10px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin-top:20px}
.card,.charts>figure,.bars,.sample,details{background:var(--panel);border:1px solid var(--line);border-radius:10px}
.card{padding:12px 16px;display:flex;flex-direction:column}.card span,.card em{color:var(--quiet);font-size:13px;
font-style:normal}
.card b{font-size:25px;line-height:1.35;font-variant-numeric:tabular-nums}
.card i{font-size:15px;font-style:normal;font-weight:500;color:var(--quiet);margin-left:3px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:12px}
figure{margin:0}.charts>figure{padding:12px 14px}.charts figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--quiet);font-size:12px;font-variant-numeric:tabular-nums}
.grid{stroke:var(--line)}.axis{stroke:var(--quiet)}.level{stroke:var(--quiet);stroke-dasharray:5 4}
.curve,.raw{fill:none;stroke-width:2;stroke-linejoin:round}.raw{stroke-width:1;opacity:.35}
.s1{stroke:var(--series-1)}.s2{stroke:var(--series-2)}.s3{stroke:var(--series-3)}.s4{stroke:var(--series-4)}
.dot{fill:var(--panel);stroke-width:2}
.keys{float:right;font-weight:400;font-size:13px}.key{margin-left:12px;border-bottom:3px solid}
.key.s1{border-color:var(--series-1)}.key.s2{border-color:var(--series-2)}.key.s3{border-color:var(--series-3)}
.key.s4{border-color:var(--series-4)}
.bars{padding:12px 16px;columns:2 380px;column-gap:36px}
.row{display:grid;grid-template-columns:minmax(80px,150px) 1fr 46px;gap:10px;align-items:center;height:26px;
break-inside:avoid}
.name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}.value{text-align:right;font-variant-numeric:tabular-nums}
.track{position:relative;height:14px;background:var(--page);border-radius:4px}
.bar{position:absolute;inset:0 auto 0 0;border-radius:4px;box-shadow:inset 0 0 0 1px rgb(128 128 128/.55)}
.tick{position:absolute;top:-3px;bottom:-3px;width:2px;margin-left:-1px;background:var(--text)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin-bottom:4px}.chip{display:flex;align-items:center;gap:6px;
font-size:13px}
.chip i{width:14px;height:14px;border-radius:3px;border:1px solid rgb(128 128 128/.55)}
.sample{padding:10px 12px;margin-top:12px}.sample>img{max-width:100%;display:block;margin:auto}
.four{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:8px}
.four img{width:100%;display:block;border-radius:5px}.four figcaption{font-size:12px;color:var(--quiet);
text-align:center}
details{margin-top:34px;padding:10px 16px}summary{cursor:pointer;font-weight:600}
pre{overflow:auto;font-size:12px;line-height:1.45}
"""
