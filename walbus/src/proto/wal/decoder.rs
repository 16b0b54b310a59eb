//! Bytes in, records out.

use super::crc;
use super::error::{Before, DecodeError, Reason};
use super::event::{self, WalEvent};
use super::field::{length, wide};
use super::page::{LONG_BYTES, LongHeader, PAGE_BYTES, PageHeader, SHORT_BYTES, WalVersion};
use super::record::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES, Record, RecordHeader};
use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;
use crate::segment::SegmentSize;

mod pending;

use pending::Pending;

/// Decodes one timeline's WAL from bytes that come in chunks of any length, in order, without a gap.
///
/// Call [`Self::push`] with the bytes at [`Self::position`]; each record that is complete with them, and whose CRC is right, is
/// handed to the closure. What comes out does not depend on how the bytes are cut into chunks. Memory is fixed: a record that does
/// not lie whole in one chunk and page has its CRC computed as its bytes come, and no more than its start is kept.
///
/// # Where it starts
/// At a page's first byte, most often a segment's: where that page goes on with a record from before, the rest of that record is
/// passed over unchecked ([`Self::unverified_end`]). Or at a record, of which the caller knows where it starts.
///
/// # What it checks
/// Of each page: magic number, flags, address, that timelines only rise and stay within the one that is read; of a segment's first
/// page: system identifier, sizes. Of each record: length, resource manager, that it names the one before, CRC; of one that runs on
/// over pages, that each says how much is left. A page that replaces a lost record's rest must start with the record that says so.
/// Behind a segment switch the rest of the segment is passed over, as Postgres does.
///
/// # After an error
/// The decoder is back at [`Self::complete_end`], as after [`Self::rewind`]: the bytes from there on can be fed again.
#[derive(Debug, Clone)]
pub struct Decoder {
    segment: SegmentSize,
    /// The timeline that is read: no page is of a later one.
    limit: Timeline,
    system: Option<SystemId>,
    position: Lsn,
    step: Step,
    /// The latest page's timeline and version.
    page: PageContext,
    /// A page's header of which not all bytes have come yet.
    held: HeldHeader,
    /// A record of which not all bytes have come yet.
    pending: Pending,
    /// The rest of a record whose start was not read, while it is passed over.
    unseen: Option<Unseen>,
    /// The page flagged as one that replaces a lost record has begun, and its first record has not been read.
    overwrite: Option<Overwrite>,
    /// The state behind the last complete record.
    mark: Mark,
    unverified_end: Option<Lsn>,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A page's header.
    Page,
    /// A record's start, or more of the pending one.
    Record,
    /// The rest of a record whose start was not read.
    Unseen,
    /// What lies behind a segment switch.
    Unused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PageContext {
    timeline: Option<Timeline>,
    version: Option<WalVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeldHeader {
    bytes: [u8; LONG_BYTES],
    len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unseen {
    /// How much of the record is left, in bytes.
    left: u32,
    /// How many bytes lie between its end and the next record.
    padding: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Overwrite {
    /// The record that was lost, where its start was read.
    lost: Option<Lsn>,
}

/// Everything that is needed to be again where the last complete record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    end: Lsn,
    /// Where that record starts; `None` while there was none.
    last: Option<Lsn>,
    page: PageContext,
    /// It was a segment switch.
    switched: bool,
}

impl Decoder {
    /// A decoder of `timeline`'s WAL from `start` on: a page's first byte or a record's.
    ///
    /// # Errors
    /// [`Reason::Start`] where neither can be there.
    pub fn new(segment: SegmentSize, start: Lsn, timeline: Timeline) -> Result<Self, DecodeError> {
        let in_page = start.0 % u64::from(PAGE_BYTES);
        let header = if segment.offset(start) < u64::from(PAGE_BYTES) { LONG_BYTES } else { SHORT_BYTES };
        // The upper half of all positions is out of any cluster's reach: left out, no sum below can overflow.
        if !start.0.is_multiple_of(8) || in_page != 0 && in_page < wide(header) || start.0 > u64::MAX / 2 {
            return Err(DecodeError::new(start, Reason::Start));
        }
        let mark = Mark { end: start, last: None, page: PageContext::default(), switched: false };
        Ok(Self {
            segment,
            limit: timeline,
            system: None,
            position: start,
            step: if in_page == 0 { Step::Page } else { Step::Record },
            page: mark.page,
            held: HeldHeader { bytes: [0; LONG_BYTES], len: 0 },
            pending: Pending::none(),
            unseen: None,
            overwrite: None,
            mark,
            unverified_end: None,
        })
    }

    /// Expects this cluster's WAL. Without it, the first segment's is taken for what all others must be.
    #[must_use]
    pub const fn with_system(mut self, system: SystemId) -> Self {
        self.system = Some(system);
        self
    }

    /// Expects the first record to follow the one that starts at `last`. To be called before the first byte is fed.
    #[must_use]
    pub const fn with_last_record(mut self, last: Lsn) -> Self {
        self.mark.last = Some(last);
        self
    }

    /// Reads a later timeline from here on: pages may be of it.
    pub fn set_timeline(&mut self, timeline: Timeline) {
        self.limit = timeline;
    }

    /// The end of the bytes fed: where the next ones must start.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last complete record, a multiple of 8, or the decoder's start while there was none. Behind a segment switch
    /// it is the record's end until the rest of the segment was fed, and the segment's end from then on. Never above
    /// [`Self::position`].
    #[must_use]
    pub const fn complete_end(&self) -> Lsn {
        self.mark.end
    }

    /// Where the last complete record starts: what the next one must name as the one before.
    #[must_use]
    pub const fn last_record(&self) -> Option<Lsn> {
        self.mark.last
    }

    /// Where a record starts that has begun and is not complete. `None` also while the rest of one is passed over whose start was
    /// not read.
    #[must_use]
    pub fn pending_record(&self) -> Option<Lsn> {
        self.pending.lsn()
    }

    /// The end of the bytes that were passed over at the start, because they belong to a record that starts before it; `None`
    /// where there were none, or their end has not come yet.
    #[must_use]
    pub const fn unverified_end(&self) -> Option<Lsn> {
        self.unverified_end
    }

    /// The timeline of the last page read.
    #[must_use]
    pub const fn page_timeline(&self) -> Option<Timeline> {
        self.page.timeline
    }

    /// The version of Postgres whose WAL it is, once a page was read.
    #[must_use]
    pub const fn version(&self) -> Option<WalVersion> {
        self.page.version
    }

    /// The cluster whose WAL it is, once a segment's first page was read.
    #[must_use]
    pub const fn system(&self) -> Option<SystemId> {
        self.system
    }

    /// Goes back to [`Self::complete_end`] and forgets what was fed of a record behind it: for a primary that was recovered and
    /// writes something else there.
    pub fn rewind(&mut self) {
        self.position = self.mark.end;
        self.page = self.mark.page;
        self.held.len = 0;
        self.pending.clear();
        self.unseen = None;
        self.overwrite = None;
        if self.mark.last.is_none() {
            self.unverified_end = None;
        }
        self.step = if self.mark.switched {
            Step::Unused
        } else if self.at_page_start() {
            Step::Page
        } else {
            Step::Record
        };
    }

    /// Takes the bytes at [`Self::position`] and hands each record that they complete to `sink`.
    ///
    /// # Errors
    /// Where a page or a record is not what it must be; the records before it were handed on.
    pub fn push(&mut self, mut data: &[u8], sink: &mut impl FnMut(&Record)) -> Result<(), DecodeError> {
        while !data.is_empty() {
            let taken = match self.step {
                Step::Page => self.take_page_header(data),
                Step::Record => self.take_records(data, sink),
                Step::Unseen => Ok(self.take_unseen(data.len())),
                Step::Unused => Ok(self.take_unused(data.len())),
            };
            match taken {
                Ok(bytes) => data = data.get(bytes..).unwrap_or_default(),
                Err(error) => {
                    self.rewind();
                    return Err(error);
                }
            }
        }
        debug_assert!(self.mark.end <= self.position);
        Ok(())
    }

    fn at_page_start(&self) -> bool {
        self.position.0.is_multiple_of(u64::from(PAGE_BYTES))
    }

    fn advance(&mut self, bytes: usize) {
        self.position = Lsn(self.position.0 + wide(bytes));
    }

    /// How many of `available` bytes lie on the page at hand.
    fn on_page(&self, available: usize) -> usize {
        let left = u64::from(PAGE_BYTES) - self.position.0 % u64::from(PAGE_BYTES);
        usize::try_from(left).unwrap_or(usize::MAX).min(available)
    }
}

/// Pages.
impl Decoder {
    /// Takes what there is of a page's header and, where it is whole, goes by it.
    fn take_page_header(&mut self, data: &[u8]) -> Result<usize, DecodeError> {
        let page = Lsn(self.position.0 - wide(self.held.len));
        let wanted = if self.held.len < SHORT_BYTES { SHORT_BYTES } else { LONG_BYTES };
        let taken = self.held.fill(data, wanted);
        self.advance(taken);
        let Some(short) = self.held.bytes.first_chunk().filter(|_| self.held.len == wanted) else { return Ok(taken) };

        let fail = |reason| DecodeError::new(page, reason);
        let mut header = PageHeader::parse_short(short);
        if wanted == SHORT_BYTES {
            let is_zero = short.iter().all(|byte| *byte == 0);
            self.check_page(page, &header, is_zero).map_err(fail)?;
            if header.is_long() {
                return Ok(taken);
            }
        } else {
            header.long = LongHeader::parse(&self.held.bytes);
            self.check_long(&header).map_err(fail)?;
        }
        self.held.len = 0;
        self.begin_page(page, &header).map_err(fail)?;
        Ok(taken)
    }

    fn check_page(&self, page: Lsn, header: &PageHeader, is_zero: bool) -> Result<(), Reason> {
        if is_zero {
            return Err(Reason::Unwritten);
        }
        let expected = self.page.version.map(WalVersion::magic);
        if header.version().is_none() || expected.is_some_and(|magic| magic != header.magic) {
            return Err(Reason::Version { expected, found: header.magic });
        }
        if !header.flags_are_known() {
            return Err(Reason::Flags { found: header.flags });
        }
        if header.address != page {
            return Err(Reason::PageAddress { found: header.address });
        }
        let after = self.page.timeline.unwrap_or(Timeline::FIRST);
        if header.timeline < after.get() {
            return Err(Reason::TimelineBack { after, found: header.timeline });
        }
        if header.timeline > self.limit.get() {
            return Err(Reason::TimelineAhead { limit: self.limit, found: header.timeline });
        }
        if !header.is_long() && self.segment.offset(page) == 0 {
            return Err(Reason::LongHeaderMissing);
        }
        Ok(())
    }

    fn check_long(&mut self, header: &PageHeader) -> Result<(), Reason> {
        let Some(long) = header.long else { return Ok(()) };
        if long.page_bytes != PAGE_BYTES {
            return Err(Reason::PageSize { found: long.page_bytes });
        }
        if u64::from(long.segment_bytes) != self.segment.bytes() {
            return Err(Reason::SegmentSize { expected: self.segment.bytes(), found: long.segment_bytes });
        }
        let expected = *self.system.get_or_insert(long.system);
        if expected != long.system {
            return Err(Reason::System { expected, found: long.system });
        }
        Ok(())
    }

    /// Goes by a page's header that is right in itself: on with a record, past the rest of one, or to a record's start.
    fn begin_page(&mut self, page: Lsn, header: &PageHeader) -> Result<(), Reason> {
        self.page = PageContext { timeline: Timeline::new(header.timeline), version: header.version() };
        let unread_before = self.mark.last.is_none() && page == self.mark.end;
        let missing = match (self.pending.lsn(), self.unseen) {
            (Some(lsn), _) => Some((Before::At(lsn), self.pending.missing())),
            (None, Some(unseen)) => Some((Before::Unseen, unseen.left)),
            (None, None) => None,
        };
        if header.is_overwrite_contrecord() {
            if header.is_contrecord() || missing.is_none() && !unread_before {
                return Err(Reason::OverwriteContrecord);
            }
            self.overwrite = Some(Overwrite { lost: self.pending.lsn() });
            self.pending.clear();
            self.unseen = None;
            self.step = Step::Record;
            return Ok(());
        }
        let found = header.remaining;
        match (missing, header.is_contrecord()) {
            (Some((record, missing)), false) => return Err(Reason::ContrecordMissing { record, missing }),
            (Some((record, expected)), true) if found != expected => {
                return Err(Reason::ContrecordLength { record, expected, found });
            }
            (Some(_), true) | (None, false) => {}
            (None, true) if !unread_before => return Err(Reason::ContrecordUnexpected { found }),
            (None, true) if !(1..=MAX_RECORD_BYTES).contains(&found) => return Err(Reason::RecordLength { found }),
            (None, true) => self.unseen = Some(Unseen { left: found, padding: found.wrapping_neg() % 8 }),
        }
        self.step = if self.unseen.is_some() { Step::Unseen } else { Step::Record };
        Ok(())
    }

    /// Passes over the rest of a record whose start was not read.
    fn take_unseen(&mut self, available: usize) -> usize {
        let here = self.on_page(available);
        let mut unseen = self.unseen.unwrap_or(Unseen { left: 0, padding: 0 });
        let left = here.min(length(unseen.left));
        let padding = (here - left).min(length(unseen.padding));
        unseen.left -= u32::try_from(left).unwrap_or(unseen.left);
        unseen.padding -= u32::try_from(padding).unwrap_or(unseen.padding);
        self.advance(left + padding);
        let is_over = unseen.left == 0 && unseen.padding == 0;
        self.unseen = (!is_over).then_some(unseen);
        if is_over {
            self.unverified_end = Some(self.position);
            self.step = Step::Record;
        }
        if self.at_page_start() {
            self.step = Step::Page;
        }
        left + padding
    }

    /// Passes over what lies behind a segment switch.
    fn take_unused(&mut self, available: usize) -> usize {
        let left = self.segment.bytes() - self.segment.offset(self.position);
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        self.advance(taken);
        if self.segment.offset(self.position) == 0 {
            self.mark.end = self.position;
            self.mark.switched = false;
            self.step = Step::Page;
        }
        taken
    }
}

/// Records.
impl Decoder {
    /// Takes records, and the start or more of one that is not whole, up to the page's end.
    fn take_records(&mut self, data: &[u8], sink: &mut impl FnMut(&Record)) -> Result<usize, DecodeError> {
        let here = data.get(..self.on_page(data.len())).unwrap_or_default();
        let whole = if self.pending.lsn().is_none() { self.take_whole(here, sink)? } else { 0 };
        let taken = if whole == 0 { self.take_part(here, sink)? } else { whole };
        if self.step == Step::Record && self.at_page_start() {
            self.step = Step::Page;
        }
        Ok(taken)
    }

    /// Takes the records that lie whole in `here`, without copying them.
    fn take_whole(&mut self, here: &[u8], sink: &mut impl FnMut(&Record)) -> Result<usize, DecodeError> {
        let mut rest = here;
        while self.step == Step::Record
            && let Some(first) = rest.first_chunk()
        {
            let lsn = self.position;
            let fail = |reason| DecodeError::new(lsn, reason);
            let header = RecordHeader::parse(first);
            check_length(header.total_bytes).map_err(fail)?;
            let Some((padded, behind)) = rest.split_at_checked(padded(header.total_bytes)) else { break };
            let record = padded.get(..length(header.total_bytes)).unwrap_or_default();
            self.check_header(lsn, &header).map_err(fail)?;
            check_crc(&header, crc::of_record(first, record)).map_err(fail)?;
            if header.has_event() || self.overwrite.is_some() {
                let event = event::of(&header, record, self.page.version).map_err(fail)?;
                self.check_overwrite(event.as_ref()).map_err(fail)?;
                self.complete(lsn, &header, event, sink);
            } else {
                self.complete(lsn, &header, None, sink);
            }
            rest = behind;
        }
        Ok(here.len() - rest.len())
    }

    /// Takes the start or more of a record that does not lie whole in `here`, and hands it on where it is complete with that.
    fn take_part(&mut self, here: &[u8], sink: &mut impl FnMut(&Record)) -> Result<usize, DecodeError> {
        let lsn = self.pending.begin(self.position);
        let fail = |reason| DecodeError::new(lsn, reason);
        let of_header = self.pending.take_header(here);
        self.advance(of_header);
        if let Some(total_bytes) = self.pending.total_bytes() {
            check_length(total_bytes).map_err(fail)?;
        }
        let Some(header) = self.pending.header() else { return Ok(of_header) };
        if of_header > 0 {
            self.check_header(lsn, &header).map_err(fail)?;
        }
        let of_body = self.pending.take_body(here.get(of_header..).unwrap_or_default());
        self.advance(of_body);
        if self.pending.is_whole() {
            check_crc(&header, self.pending.crc()).map_err(fail)?;
            let event = event::of(&header, self.pending.start(), self.page.version).map_err(fail)?;
            self.check_overwrite(event.as_ref()).map_err(fail)?;
            self.complete(lsn, &header, event, sink);
        }
        Ok(of_header + of_body)
    }

    #[inline]
    fn check_header(&self, lsn: Lsn, header: &RecordHeader) -> Result<(), Reason> {
        if !header.rmid_is_known() {
            return Err(Reason::ResourceManager { found: header.rmid });
        }
        match self.mark.last {
            Some(expected) if header.prev != expected => Err(Reason::Prev { expected, found: header.prev }),
            None if header.prev >= lsn => Err(Reason::PrevAhead { found: header.prev }),
            _ => Ok(()),
        }
    }

    /// Hands on a record that is whole and right, and goes behind it.
    #[inline(always)]
    fn complete(&mut self, lsn: Lsn, header: &RecordHeader, event: Option<WalEvent>, sink: &mut impl FnMut(&Record)) {
        if self.pending.lsn().is_some() {
            self.pending.clear();
        } else {
            self.advance(padded(header.total_bytes));
        }
        let end = self.position;
        sink(&Record {
            lsn,
            end,
            prev: header.prev,
            total_bytes: header.total_bytes,
            xid: header.xid,
            rmid: header.rmid,
            info: header.info,
            timeline: self.page.timeline,
            event,
        });
        let switched = header.is_switch() && self.segment.offset(end) != 0;
        if switched {
            self.step = Step::Unused;
        }
        self.mark = Mark { end, last: Some(lsn), page: self.page, switched };
    }

    /// The first record of a page that replaces a lost record's rest says which one was lost; no other record does.
    fn check_overwrite(&mut self, event: Option<&WalEvent>) -> Result<(), Reason> {
        match (self.overwrite.take(), event) {
            (Some(Overwrite { lost: Some(expected) }), Some(WalEvent::OverwriteContrecord { overwritten: found, .. }))
                if *found != expected =>
            {
                Err(Reason::OverwrittenRecord { expected, found: *found })
            }
            (Some(_), Some(WalEvent::OverwriteContrecord { .. })) => Ok(()),
            (Some(_), _) => Err(Reason::OverwriteContrecord),
            // Where the page's header was not read, its flag is not known.
            (None, Some(WalEvent::OverwriteContrecord { .. })) if self.page.version.is_some() => Err(Reason::OverwriteContrecord),
            (None, _) => Ok(()),
        }
    }
}

impl HeldHeader {
    /// Takes bytes until there are `wanted`, and says how many.
    fn fill(&mut self, data: &[u8], wanted: usize) -> usize {
        let room = self.bytes.get_mut(self.len..wanted).unwrap_or_default();
        let taken = room.iter_mut().zip(data).map(|(to, from)| *to = *from).count();
        self.len += taken;
        taken
    }
}

/// How many bytes a record takes up with the padding behind it.
#[inline]
fn padded(total_bytes: u32) -> usize {
    length(total_bytes).saturating_add(7) & !7
}

#[inline]
fn check_length(total_bytes: u32) -> Result<(), Reason> {
    match total_bytes {
        0 => Err(Reason::Unwritten),
        RECORD_HEADER_BYTES..=MAX_RECORD_BYTES => Ok(()),
        found => Err(Reason::RecordLength { found }),
    }
}

#[inline]
fn check_crc(header: &RecordHeader, found: u32) -> Result<(), Reason> {
    if header.crc == found { Ok(()) } else { Err(Reason::Crc { expected: header.crc, found }) }
}

#[cfg(test)]
mod tests;
