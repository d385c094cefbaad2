"""The console: what the gateway knows of the running system, shown live at `/console`."""
