"""diffcache: run a frozen diffusion U-Net once, train any number of heads on what it wrote."""

__version__ = "0.1.0"
