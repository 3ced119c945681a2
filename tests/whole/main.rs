//! Tests of the whole broker.

mod layers;
