"""Pages, each one HTML file: `page` says what one holds, `charts` and `pictures` make its parts, `render` writes it."""
