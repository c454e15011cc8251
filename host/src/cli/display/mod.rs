//! A run as a person sees it, on standard error.

mod bar;
pub mod format;
mod human;
mod pace;
mod screen;
mod status;

pub use human::{About, Human};
pub use screen::Screen;
