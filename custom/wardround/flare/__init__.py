"""The only code that knows NVFlare: controllers, executors, outbound filters, site policies."""
