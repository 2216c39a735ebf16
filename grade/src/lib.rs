//! The grader: from a folder of untrusted submissions to grades that can be defended.
//!
//! The verdict is made in a process the student's code never ran in, from values the student's code had to compute; everything else is depth.

pub mod clean;
pub mod model;
pub mod results;
pub mod sandbox;
