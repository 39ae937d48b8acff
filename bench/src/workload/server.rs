//! The side that takes PUTs in and checks them, and serves GETs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hugepages::{Backing, BackingError, PageRunMut, PageSlice, PrivatePages};
use smallvec::smallvec;
use transport::lnd::{AppId, Data, Payload, RxPiece, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::{App, Ops, Work};
use transport::wire::ProcessId;

use super::{APP, MATCH, Portals, SMALL, patterned};
use crate::ctl::{Ctl, bump};

/// The server's ways to take bulk payload in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// In the buffers that it arrived in.
    Lent,
    /// One copy into a page run.
    Copied,
}

/// Match entries that a copying server keeps attached for bulk: twice what a client has in flight.
const COPY_ENTRIES: u64 = 32;
const SMALL_TAG: u64 = 1 << 32;

/// The side that takes PUTs in.
pub struct Server {
    ctl: Arc<Ctl>,
    intake: Intake,
    portals: Portals,
    source: PageSlice,
    attached: u64,
    asked: bool,
}

impl Server {
    /// A server; the page run that it serves GETs from comes from `backing`.
    ///
    /// # Errors
    /// The backing has no memory for it.
    pub fn new(ctl: Arc<Ctl>, intake: Intake, backing: &Arc<dyn Backing>) -> Result<Server, BackingError> {
        let mut made = patterned(backing, 1, 1 << 20)?;
        let Some((source, _)) = made.pop() else { return Err(BackingError::BadLength(0)) };
        Ok(Server { ctl, intake, portals: Portals::default(), source, attached: 0, asked: false })
    }

    /// The same with other portals.
    #[must_use]
    pub fn at(self, portals: Portals) -> Server {
        Server { portals, ..self }
    }

    fn entries(&self) -> u64 {
        2 + if self.intake == Intake::Copied { COPY_ENTRIES } else { 1 }
    }

    fn attach(&self, ops: &mut Ops, tag: u64, portal: u32, mem: MdMem) {
        let mut md = MdSpec::new(mem);
        if portal == self.portals.bulk && self.intake == Intake::Copied {
            md.threshold = Some(1);
        }
        let who = ProcessId::ANY;
        ops.push_back((APP, Op::Attach { tag, portal, who, match_bits: MATCH, ignore_bits: 0, md }));
    }

    fn verify(&self, hdr_data: u64, parts: &mut dyn Iterator<Item = &[u8]>) {
        if hdr_data >> 32 == 0 {
            return;
        }
        let mut h = crc32fast::Hasher::new();
        parts.for_each(|p| h.update(p));
        let good = h.finalize() == hdr_data as u32;
        bump(if good { &self.ctl.crc_good } else { &self.ctl.crc_bad }, 1);
    }
}

impl App for Server {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        if self.asked {
            return Work::Idle;
        }
        self.asked = true;
        let run = |len| PageRunMut::new(Arc::new(PrivatePages), len);
        let made = run(SMALL).and_then(|small| {
            self.attach(ops, SMALL_TAG, self.portals.small, MdMem::Sink(Sink::Copy(small)));
            let source = Payload::Pages(smallvec![self.source.clone()]);
            self.attach(ops, SMALL_TAG + 1, self.portals.source, MdMem::Source(source));
            match self.intake {
                Intake::Lent => self.attach(ops, 0, self.portals.bulk, MdMem::Sink(Sink::Lend(1 << 20))),
                Intake::Copied => {
                    for tag in 0..COPY_ENTRIES {
                        self.attach(ops, tag, self.portals.bulk, MdMem::Sink(Sink::Copy(run(1 << 20)?)));
                    }
                }
            }
            Ok(())
        });
        if let Err(e) = made {
            self.ctl.fail(e.to_string());
        }
        Work::Busy(1)
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, ops: &mut Ops) {
        match ev {
            Event::Attached { .. } => {
                self.attached += 1;
                if self.attached == self.entries() {
                    self.ctl.ready.store(true, Ordering::Release);
                }
            }
            Event::Refused { why, .. } => self.ctl.fail(why.to_string()),
            Event::Put(put) => {
                // A message that was cut off has not arrived, and its bytes prove nothing.
                let whole = put.status.is_ok();
                match put.status {
                    Ok(()) => {
                        bump(&self.ctl.bytes, u64::from(put.mlength));
                        bump(&self.ctl.arrived, 1);
                    }
                    Err(e) => self.ctl.fail(e.to_string()),
                }
                if let Data::Lent(pieces) = &put.data {
                    let copied = |p: &RxPiece| if let RxPiece::Copied(b) = p { b.len() as u64 } else { 0 };
                    bump(&self.ctl.bulk_copied, pieces.iter().map(copied).sum());
                    self.verify(put.hdr_data, &mut pieces.iter().map(|p| p.bytes()));
                }
                if let Some(Some(run)) = put.unlinked {
                    if whole {
                        let got = run.bytes().get(..put.mlength as usize).unwrap_or_default();
                        self.verify(put.hdr_data, &mut std::iter::once(got));
                    }
                    if put.portal == self.portals.bulk {
                        bump(&self.ctl.bulk_copied, u64::from(put.mlength));
                        self.attach(ops, put.tag, self.portals.bulk, MdMem::Sink(Sink::Copy(run)));
                    }
                }
            }
            _ => {}
        }
    }
}
