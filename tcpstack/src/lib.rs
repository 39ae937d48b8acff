//! One TCP stack an lcore.
