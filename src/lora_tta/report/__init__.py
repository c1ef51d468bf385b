"""The page, charts, filmstrips and plots that show results."""
