"""The page of a run: what is read (`run_report`), the gallery, what is shown (`run_page`); `build` is the way in."""
