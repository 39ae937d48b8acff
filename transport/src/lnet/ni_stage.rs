//! The stages of an NI's place (docs/protocol/upper.md §2).
//!
//! ```text
//!          Open            Begin             Close              Left
//!  FREE ----------> READY ----------> RUNNING ----------> LEAVING ----------> FREE
//!                     |                                     ^
//!                     '-------------------------------------'
//!                                     Close
//! ```
//!
//! An NI has the same place on every shard. All of them make it READY before the first has it RUNNING: a shard that is given a
//! message for an NI knows it then. The place is free again when nothing is left of the NI: no connection, no page on loan, no copy job.

fsm::fsm! {
    /// Stages of an NI's place.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Stage {
        /// Nobody's.
        Free,
        /// An NI has it, by which nothing goes yet.
        Ready,
        /// The NI runs.
        Running,
        /// The NI was deleted, and something is left of it.
        Leaving,
    }

    /// Causes of change.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Step {
        /// An NI is to have it.
        Open,
        /// All shards are ready.
        Begin,
        /// The NI is deleted.
        Close,
        /// Nothing is left of it.
        Left,
    }

    table Stage + Step {
        start Free;
        else "it is refused";
        Free + Open => Ready;
        Ready + Begin => Running;
        Ready | Running + Close => Leaving;
        Leaving + Left => Free;
    }
}

#[cfg(test)]
mod tests {
    use super::Stage;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Stage>(), @r"
        Free + Open -> Ready
        Ready + Begin -> Running
        Ready + Close -> Leaving
        Running + Close -> Leaving
        Leaving + Left -> Free
        otherwise: it is refused
        ");
    }
}
