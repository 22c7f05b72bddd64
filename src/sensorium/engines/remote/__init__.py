"""Engines that ask somebody else: the models of providers, and of servers nearby that speak a provider's wire format."""
