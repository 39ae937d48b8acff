//! State machines as tables: [`fsm!`] makes of one table the transitions and their listing, [`Fsm`] is a state that
//! changes by its table alone, and [`AtomicFsm`] one that threads share.
//!
//! ```
//! fsm::fsm! {
//!     /// A door.
//!     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
//!     enum Door { Open, Shut, Locked(u32) }
//!     /// What people do to it.
//!     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
//!     enum Hand { Push, Pull, Lock(u32), Unlock(u32) }
//!     table Door + Hand {
//!         start Open;
//!         else "nothing moves";
//!         Open + Push => Shut;
//!         Shut + Pull => Open;
//!         Shut + Lock(key) => Locked(key);
//!         Locked(key) + Unlock(with) if key == with => Shut;
//!     }
//! }
//! let mut door = fsm::Fsm::<Door>::START;
//! assert_eq!(door.apply(Hand::Pull), None);
//! assert_eq!(door.apply(Hand::Push), Some(()));
//! assert!(door == Door::Shut);
//! assert_eq!(
//!     fsm::listing::<Door>(),
//!     "Open + Push -> Shut\nShut + Pull -> Open\nShut + Lock -> Locked\n\
//!      Locked + Unlock if key == with -> Shut\notherwise: nothing moves\n"
//! );
//! ```
//!
//! # Rows
//! `State | State + Event | Event if guard => State, Action;`, the first that fits counts. Data is bound on the left and
//! used on the right; `_` is any state or event, `same` the state that there was, `{ e }` a state that is computed.
//! Where nothing fits there is no transition, and `else` says what that means. A table whose rows depend on one thing more
//! has a group of rows for each: `table S + E => A by B { start X; else "..."; B1 { rows } B2 { rows } }`.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, Ordering};

/// An enum that lists its variants.
pub trait Named {
    /// Names of the variants, in their order.
    const NAMES: &'static [&'static str];
}

/// An enum whose variants have no data, so that a number stands for each.
pub trait Numbered: Sized + 'static {
    /// The variants, each at the place that its number says.
    const ALL: &'static [Self];

    /// The variant's number.
    fn number(self) -> u8;
}

/// One row of a table, as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Patterns of states.
    pub states: &'static [&'static str],
    /// Patterns of events.
    pub events: &'static [&'static str],
    /// Condition; empty for none.
    pub guard: &'static str,
    /// State that follows.
    pub to: &'static str,
    /// Action; empty for none.
    pub action: &'static str,
}

/// States with a transition table. [`fsm!`] implements it.
pub trait Table: Copy {
    /// Events move the state.
    type Event;
    /// Actions are to be done on a transition.
    type Action;
    /// A second key that chooses the rows.
    type By;
    /// The state at first.
    const START: Self;
    /// The meaning of an event for which no row fits.
    const ELSE: &'static str;
    /// The rows, by what else chooses them.
    const ROWS: &'static [(&'static str, &'static [Row])];

    /// The transition; `None` where no row fits.
    fn next(self, by: Self::By, event: Self::Event) -> Option<(Self, Self::Action)>;
}

/// A state that its table alone changes: it has no setter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fsm<S>(S);

impl<S: Table> Fsm<S> {
    /// One in the state at first.
    pub const START: Fsm<S> = Fsm(S::START);

    /// The state.
    #[inline]
    pub fn get(&self) -> S {
        self.0
    }

    /// Goes through the table; `None` where no row fits, and nothing changes.
    #[inline]
    pub fn apply_by(&mut self, by: S::By, event: S::Event) -> Option<S::Action> {
        let (state, action) = self.0.next(by, event)?;
        self.0 = state;
        Some(action)
    }
}

impl<S: Table<By = ()>> Fsm<S> {
    /// Goes through the table; `None` where no row fits, and nothing changes.
    #[inline]
    pub fn apply(&mut self, event: S::Event) -> Option<S::Action> {
        self.apply_by((), event)
    }

    /// The action that an event would mean now.
    #[inline]
    pub fn would(&self, event: S::Event) -> Option<S::Action> {
        Some(self.0.next((), event)?.1)
    }
}

impl<S: Table> Default for Fsm<S> {
    fn default() -> Fsm<S> {
        Fsm::START
    }
}

impl<S: PartialEq> PartialEq<S> for Fsm<S> {
    #[inline]
    fn eq(&self, other: &S) -> bool {
        self.0 == *other
    }
}

impl<S: fmt::Debug> fmt::Debug for Fsm<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An atomic byte. A model puts its own in the place of the standard library's.
pub trait AtomicByte {
    /// One that holds `n`.
    fn new(n: u8) -> Self;

    /// Its value.
    fn load(&self, order: Ordering) -> u8;

    /// Puts `new` in the place of `current`.
    ///
    /// # Errors
    /// The value that was there instead.
    fn compare_exchange(&self, current: u8, new: u8, done: Ordering, not: Ordering) -> Result<u8, u8>;
}

impl AtomicByte for AtomicU8 {
    fn new(n: u8) -> AtomicU8 {
        AtomicU8::new(n)
    }

    #[inline]
    fn load(&self, order: Ordering) -> u8 {
        AtomicU8::load(self, order)
    }

    #[inline]
    fn compare_exchange(&self, current: u8, new: u8, done: Ordering, not: Ordering) -> Result<u8, u8> {
        AtomicU8::compare_exchange(self, current, new, done, not)
    }
}

/// A state that threads share and its table alone changes: a transition is one exchange, from the state that the table was
/// asked about. A thread that sees a state sees what its writer did before. Loads and exchanges are sequentially consistent,
/// so that a state may also be weighed against counts of others.
///
/// ```
/// fsm::fsm! {
///     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
///     enum Lamp { Off, On }
///     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
///     enum Press { Switch, Out }
///     table Lamp + Press {
///         start Off;
///         else "nothing changes";
///         Off + Switch => On;
///         On + Switch | Out => Off;
///     }
/// }
/// let lamp = fsm::AtomicFsm::<Lamp>::default();
/// assert_eq!((lamp.apply(Press::Out), lamp.get()), (None, Lamp::Off));
/// std::thread::scope(|s| s.spawn(|| lamp.apply(Press::Switch)).join()).unwrap();
/// assert!(lamp.is(Lamp::On));
/// ```
pub struct AtomicFsm<S, A = AtomicU8> {
    state: A,
    of: PhantomData<S>,
}

impl<S: Table<By = ()> + Numbered, A: AtomicByte> AtomicFsm<S, A> {
    /// The state.
    #[inline]
    pub fn get(&self) -> S {
        Self::of(self.state.load(Ordering::SeqCst))
    }

    /// Whether that is the state: one load and a comparison of numbers.
    #[inline]
    pub fn is(&self, state: S) -> bool {
        self.state.load(Ordering::SeqCst) == state.number()
    }

    /// Goes through the table; `None` where no row fits, and nothing changes.
    pub fn apply(&self, event: S::Event) -> Option<S::Action>
    where
        S::Event: Copy,
    {
        let mut now = self.state.load(Ordering::SeqCst);
        loop {
            let (state, action) = Self::of(now).next((), event)?;
            let n = state.number();
            match self.state.compare_exchange(now, n, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(action),
                // Another thread was first: the table is asked about its state.
                Err(other) => now = other,
            }
        }
    }

    /// The state of a number; only numbers of states are ever stored.
    #[inline]
    fn of(n: u8) -> S {
        S::ALL.get(usize::from(n)).copied().unwrap_or(S::START)
    }
}

impl<S: Table<By = ()> + Numbered, A: AtomicByte> Default for AtomicFsm<S, A> {
    fn default() -> AtomicFsm<S, A> {
        AtomicFsm { state: A::new(S::START.number()), of: PhantomData }
    }
}

impl<S: Table<By = ()> + Numbered + fmt::Debug, A: AtomicByte> fmt::Debug for AtomicFsm<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Makes enums and their tables: see [the crate](crate).
#[macro_export]
macro_rules! fsm {
    () => {};
    (
        $(#[$meta:meta])* $vis:vis enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident ),* $(,)? }
        $($rest:tt)*
    ) => {
        $(#[$meta])* $vis enum $name { $( $(#[$vmeta])* $variant ),* }
        impl $crate::Named for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($variant)),*];
        }
        impl $crate::Numbered for $name {
            const ALL: &'static [Self] = &[$($name::$variant),*];

            #[inline]
            fn number(self) -> u8 {
                self as u8
            }
        }
        $crate::fsm! { $($rest)* }
    };
    (
        $(#[$meta:meta])* $vis:vis enum $name:ident {
            $( $(#[$vmeta:meta])* $variant:ident $( ( $($tuple:tt)* ) )? $( { $($field:tt)* } )? ),* $(,)?
        }
        $($rest:tt)*
    ) => {
        $(#[$meta])* $vis enum $name {
            $( $(#[$vmeta])* $variant $( ( $($tuple)* ) )? $( { $($field)* } )? ),*
        }
        impl $crate::Named for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($variant)),*];
        }
        $crate::fsm! { $($rest)* }
    };
    (
        table $S:ident + $E:ident $(=> $A:ident)? {
            start $start:ident;
            else $words:literal;
            $($rows:tt)*
        }
        $($rest:tt)*
    ) => {
        impl $crate::Table for $S {
            type Event = $E;
            type Action = $crate::fsm_act!(type [$($A)?]);
            type By = ();
            const START: $S = $S::$start;
            const ELSE: &'static str = $words;
            const ROWS: &'static [(&'static str, &'static [$crate::Row])] =
                &[("", $crate::fsm_rows! { $($rows)* })];

            #[inline]
            fn next(self, (): (), event: $E) -> Option<($S, Self::Action)> {
                $crate::fsm_match! { self event $S $E [$($A)?]; $($rows)* }
            }
        }
        $crate::fsm! { $($rest)* }
    };
    (
        table $S:ident + $E:ident => $A:ident by $B:ident {
            start $start:ident;
            else $words:literal;
            $( $by:ident { $($rows:tt)* } )+
        }
        $($rest:tt)*
    ) => {
        impl $crate::Table for $S {
            type Event = $E;
            type Action = $A;
            type By = $B;
            const START: $S = $S::$start;
            const ELSE: &'static str = $words;
            const ROWS: &'static [(&'static str, &'static [$crate::Row])] =
                &[$( (stringify!($by), $crate::fsm_rows! { $($rows)* }) ),+];

            #[inline]
            fn next(self, by: $B, event: $E) -> Option<($S, $A)> {
                match by {
                    $( $B::$by => $crate::fsm_match! { self event $S $E [$A]; $($rows)* } ),+
                }
            }
        }
        $crate::fsm! { $($rest)* }
    };
}

/// Rows as text.
#[doc(hidden)]
#[macro_export]
macro_rules! fsm_rows {
    ( $(
        $( $s:tt $( ( $($sa:tt)* ) )? )|+ + $( $e:tt $( ( $($ea:tt)* ) )? $( { $($ef:tt)* } )? )|+
        $( if $guard:expr )? => $t:tt $( ( $($ta:tt)* ) )? $( , $a:ident )? ;
    )* ) => {
        &[ $( $crate::Row {
            states: &[ $( stringify!($s $( ( $($sa)* ) )?) ),+ ],
            events: &[ $( stringify!($e $( ( $($ea)* ) )? $( { $($ef)* } )?) ),+ ],
            guard: concat!($( stringify!($guard) )?),
            to: stringify!($t $( ( $($ta)* ) )?),
            action: concat!($( stringify!($a) )?),
        } ),* ]
    };
}

/// Rows as a match.
#[doc(hidden)]
#[macro_export]
macro_rules! fsm_match {
    ( $state:tt $event:ident $S:ident $E:ident $A:tt; $(
        $( $s:tt $( ( $($sa:tt)* ) )? )|+ + $( $e:tt $( ( $($ea:tt)* ) )? $( { $($ef:tt)* } )? )|+
        $( if $guard:expr )? => $t:tt $( ( $($ta:tt)* ) )? $( , $a:ident )? ;
    )* ) => {
        match ($state, $event) {
            $( (
                $( $crate::fsm_pat!($S $s $( ( $($sa)* ) )?) )|+,
                $( $crate::fsm_pat!($E $e $( ( $($ea)* ) )? $( { $($ef)* } )?) )|+
            ) $( if $guard )? => ::core::option::Option::Some((
                $crate::fsm_to!($state $S $t $( ( $($ta)* ) )?),
                $crate::fsm_act!($A $($a)?),
            )), )*
            _ => ::core::option::Option::None,
        }
    };
}

/// A pattern of a row.
#[doc(hidden)]
#[macro_export]
macro_rules! fsm_pat {
    ( $T:ident _ ) => { _ };
    ( $T:ident $v:ident $($data:tt)* ) => { $T::$v $($data)* };
}

/// The state that a row leads to.
#[doc(hidden)]
#[macro_export]
macro_rules! fsm_to {
    ( $state:tt $S:ident same ) => { $state };
    ( $state:tt $S:ident { $e:expr } ) => { $e };
    ( $state:tt $S:ident $v:ident $($data:tt)* ) => { $S::$v $($data)* };
}

/// The action of a row, and its type.
#[doc(hidden)]
#[macro_export]
macro_rules! fsm_act {
    ( type [] ) => {
        ()
    };
    ( type [ $A:ident ] ) => {
        $A
    };
    ( [] ) => {
        ()
    };
    ( [ $A:ident ] $a:ident ) => {
        $A::$a
    };
}

/// The table with alternatives and `_` written out, a line a transition in the order of states and events: what tests
/// hold a snapshot of, and docs/machines.md shows. Data is shown where a row asks what it is.
pub fn listing<S: Table + Named>() -> String
where
    S::Event: Named,
{
    let mut text = String::new();
    for (by, rows) in S::ROWS {
        let indent = if by.is_empty() { "" } else { "  " };
        if !by.is_empty() {
            text += &format!("{by}\n");
        }
        let mut used = vec![false; rows.len()];
        for s in S::NAMES {
            for e in <S::Event as Named>::NAMES {
                for line in lines(rows, &mut used, s, e) {
                    text += &format!("{indent}{line}\n");
                }
            }
        }
        for (row, _) in rows.iter().zip(used).filter(|(_, used)| !used) {
            text += &format!("{indent}never: {} + {}\n", row.states.join(" | "), row.events.join(" | "));
        }
    }
    text + &format!("otherwise: {}\n", S::ELSE)
}

/// Lines of one state and event, up to the first row that fits all their data.
fn lines(rows: &[Row], used: &mut [bool], state: &str, event: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (row, used) in rows.iter().zip(used) {
        let (states, events) = (fit(row.states, state), fit(row.events, event));
        for s in &states {
            for e in &events {
                *used = true;
                let condition =
                    if row.guard.is_empty() { String::new() } else { format!(" if {}", row.guard) };
                let to = match row.to {
                    "same" => state,
                    t => t.strip_prefix('{').map_or(name(t), |t| t.trim_end_matches('}').trim()),
                };
                let action = if row.action.is_empty() { String::new() } else { format!(", {}", row.action) };
                found.push(format!("{} + {}{condition} -> {to}{action}", shown(s, state), shown(e, event)));
            }
        }
        let all = |patterns: &[&str]| patterns.iter().any(|p| !asks(p));
        if row.guard.is_empty() && all(&states) && all(&events) {
            break;
        }
    }
    found
}

/// Patterns of that name.
fn fit<'a>(patterns: &[&'a str], of: &str) -> Vec<&'a str> {
    patterns.iter().copied().filter(|p| *p == "_" || name(p) == of).collect()
}

/// A pattern without its data.
fn name(pattern: &str) -> &str {
    pattern.split(['(', '{']).next().unwrap_or_default().trim()
}

/// A pattern as the listing has it.
fn shown<'a>(pattern: &'a str, name: &'a str) -> &'a str {
    if asks(pattern) { pattern } else { name }
}

/// Whether a pattern asks what the data is: it has more than names, `_` and `..`.
fn asks(pattern: &str) -> bool {
    let Some((_, data)) = pattern.split_once(['(', '{']) else { return false };
    let plain = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && s != "true"
            && s != "false"
    };
    let mut parts = data.trim_end_matches([')', '}']).split(',').map(str::trim).filter(|s| !s.is_empty());
    !parts.all(|s| s == ".." || plain(s))
}

#[cfg(test)]
// A row that nothing comes to is one of those that are tested.
#[allow(unreachable_patterns)]
mod tests {
    use super::*;

    fsm! {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum S { A, B(u8), C { x: bool } }
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum E { Go(u8), Set { x: bool }, Back, Is(S) }
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Act { Say, Hush }
        table S + E => Act {
            start A;
            else "an error";
            A | B(0) + Go(n) if n > 0 => B(n), Say;
            B(_) + Back | Set { x: true } => A, Hush;
            A + Set { x } => { S::C { x } }, Say;
            _ + Is(s) => { s }, Hush;
            A + Is(_) => A, Hush;
            A + Back => same, Hush;
        }
    }

    /// The listing is what the match does, and says what the match leaves out.
    #[test]
    fn a_listing_is_the_table_written_out() {
        let want = "\
A + Go if n > 0 -> B, Say
A + Set -> S::C { x }, Say
A + Back -> A, Hush
A + Is -> s, Hush
B(0) + Go if n > 0 -> B, Say
B + Set { x: true } -> A, Hush
B + Back -> A, Hush
B + Is -> s, Hush
C + Is -> s, Hush
never: A + Is(_)
otherwise: an error
";
        assert_eq!(listing::<S>(), want);
    }

    #[test]
    fn a_row_that_fits_moves_and_another_does_not() {
        let mut m = Fsm::<S>::default();
        assert_eq!((m.apply(E::Go(0)), m.get()), (None, S::A));
        assert_eq!((m.would(E::Go(3)), m.get()), (Some(Act::Say), S::A));
        assert_eq!((m.apply(E::Go(3)), m.get()), (Some(Act::Say), S::B(3)));
        assert_eq!((m.apply(E::Go(4)), m.get()), (None, S::B(3)));
        assert_eq!((m.apply(E::Set { x: false }), m.get()), (None, S::B(3)));
        assert_eq!((m.apply(E::Set { x: true }), m.get()), (Some(Act::Hush), S::A));
        assert_eq!((m.apply(E::Set { x: true }), m.get()), (Some(Act::Say), S::C { x: true }));
        assert_eq!((m.apply(E::Is(S::B(0))), m.get()), (Some(Act::Hush), S::B(0)));
        assert_eq!((m.apply(E::Go(9)), m.get()), (Some(Act::Say), S::B(9)));
        assert_eq!(
            (m.apply(E::Is(S::A)), m.apply(E::Back), m.get()),
            (Some(Act::Hush), Some(Act::Hush), S::A)
        );
        assert_eq!(format!("{m:?}"), "A");
    }

    #[derive(Clone, Copy)]
    enum Mode {
        Slow,
        Fast,
    }
    fsm! {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Light { Red, Green }
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Tick { Short, Long }
        table Light + Tick => Act by Mode {
            start Red;
            else "it stays";
            Slow { Red + Long => Green, Say; }
            Fast { Red + _ => Green, Say; }
        }
    }

    #[test]
    fn one_thing_more_chooses_the_rows() {
        assert_eq!(
            listing::<Light>(),
            "Slow\n  Red + Long -> Green, Say\n\
             Fast\n  Red + Short -> Green, Say\n  Red + Long -> Green, Say\notherwise: it stays\n"
        );
        let mut l = Fsm::<Light>::START;
        assert_eq!((l.apply_by(Mode::Slow, Tick::Short), l.get()), (None, Light::Red));
        assert_eq!((l.apply_by(Mode::Fast, Tick::Short), l.get()), (Some(Act::Say), Light::Green));
        assert_eq!(l.apply_by(Mode::Fast, Tick::Long), None);
    }

    fsm! {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Count { Zero, One, Two, Many }
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Step { Up, Down }
        table Count + Step => Act {
            start One;
            else "it stays";
            Zero + Up => One, Say;
            One + Up => Two, Say;
            Two + Up => Many, Hush;
            Two + Down => One, Hush;
            One + Down => Zero, Hush;
        }
    }

    #[test]
    fn numbers_stand_for_states_in_their_order() {
        assert_eq!(Count::ALL.iter().map(|c| c.number()).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(Count::NAMES, ["Zero", "One", "Two", "Many"]);
    }

    #[test]
    fn a_shared_state_begins_and_moves_as_its_table_says() {
        let c = AtomicFsm::<Count>::default();
        assert_eq!((c.get(), format!("{c:?}")), (Count::One, "One".to_owned()));
        assert_eq!((c.apply(Step::Down), c.get()), (Some(Act::Hush), Count::Zero));
        assert_eq!((c.apply(Step::Down), c.get()), (None, Count::Zero));
        assert!(c.is(Count::Zero) && !c.is(Count::One));
        for (action, state) in [(Act::Say, Count::One), (Act::Say, Count::Two), (Act::Hush, Count::Many)] {
            assert_eq!((c.apply(Step::Up), c.get()), (Some(action), state));
        }
    }

    /// A byte that another thread changes between the look and the exchange, as often as it is told.
    struct Raced(AtomicU8, std::cell::Cell<u8>);

    impl AtomicByte for Raced {
        fn new(n: u8) -> Raced {
            Raced(AtomicU8::new(n), std::cell::Cell::new(0))
        }
        fn load(&self, order: Ordering) -> u8 {
            self.0.load(order)
        }
        fn compare_exchange(&self, current: u8, new: u8, done: Ordering, not: Ordering) -> Result<u8, u8> {
            if self.1.get() > 0 {
                self.1.set(self.1.get() - 1);
                self.0.fetch_add(1, Ordering::AcqRel);
            }
            self.0.compare_exchange(current, new, done, not)
        }
    }

    #[test]
    fn a_transition_is_of_the_state_that_another_thread_left() {
        let c = AtomicFsm::<Count, Raced>::default();
        c.state.1.set(1);
        assert_eq!((c.apply(Step::Up), c.get()), (Some(Act::Hush), Count::Many), "another had gone to Two");
        let c = AtomicFsm::<Count, Raced>::default();
        c.state.1.set(2);
        assert_eq!((c.apply(Step::Up), c.get()), (None, Count::Many), "two others had gone to Many");
    }
}
