//! Gradients against finite differences, against goldens, and the shape of the programs that the walk writes.

mod differences;
mod goldens;
mod models;
mod rules;
mod walk;
