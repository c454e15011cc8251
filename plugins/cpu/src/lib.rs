//! The CPU plugin.
