"""From a config section or a weights file to a network on a device."""
