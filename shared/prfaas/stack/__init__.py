"""A whole deployment on one machine, and its parts: servers, links, services; `prfaas up` and tests run it."""
