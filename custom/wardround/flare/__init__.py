"""The only code that knows NVFlare: controller, executor, outbound filter, site
policies.
"""
