//! The plugin interface.
