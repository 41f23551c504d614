"""The engines that Legato is measured beside: how each is installed, fed and started."""
