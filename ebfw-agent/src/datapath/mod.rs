//! Kernel side, as the agent sees it.
