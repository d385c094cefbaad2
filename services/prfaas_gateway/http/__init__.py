"""The wire: routes, headers, bodies, replies."""
