"""Pages, each one HTML file: `page` says what a page holds, `charts` and `pictures` make its parts, `render` writes it.

The page of a run is `run_report` (what is read), `gallery`, `run_page` (what is shown) and `build` (the way in).
"""
