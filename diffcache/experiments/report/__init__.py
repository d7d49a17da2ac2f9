"""One HTML file of what was found: gathered from runs, results, stores and images, and put on a page."""
