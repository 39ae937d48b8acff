//! `pollnd demo`.
use crate::args::DemoArgs;
pub(crate) fn main(_: &DemoArgs) -> Result<(), String> {
    Err("pending".into())
}
