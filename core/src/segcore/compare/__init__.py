"""Which head is best on one's data: `study` (what is trained), `runner` (how it runs), `collect` (what came out),
`results` (what may be said), `comparison_page` and `atlas` (what is shown), `context` (what far pixels are worth)."""
