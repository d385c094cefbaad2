"""HTTP: routes, headers, bodies, replies."""
