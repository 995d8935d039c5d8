//! A disk that loses what nobody told it to keep: bytes written since the last flush are each sector's own affair
//! when the power goes.
//!
//! Plain data: no file, no mount, no time. A sector (512 bytes) is written whole or not at all; sectors that were
//! written since the last flush may survive a cut in any combination, and each as any of the last few things that
//! were written to it. `machine` puts a file system on it.

use std::collections::BTreeMap;

use crate::support::load::Chance;

pub(crate) const SECTOR: usize = 512;
/// Un-flushed contents of one sector that are told apart; older ones can then not survive. Bounds the memory for a
/// sector that is written again and again.
const VERSIONS_MAX: usize = 4;

/// What a cut leaves of the bytes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    /// A disk with a cache that is simply gone.
    Nothing,
    /// Each sector on its own, with a chance of so many in eight, as any of its contents.
    Some(u64),
    /// What was written first, up to some moment.
    Oldest,
    /// All of it: a cut between two requests.
    Everything,
}

impl Survival {
    pub(crate) fn any(chance: &mut Chance) -> Self {
        match chance.below(8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Oldest,
            _ => Self::Some(1 + chance.below(7)),
        }
    }
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Now,
    /// When a flush is asked for, before anything of it is done.
    Flush,
    /// After so many more sectors.
    Sector(u64),
}

impl Moment {
    pub(crate) fn any(chance: &mut Chance) -> Self {
        match chance.below(4) {
            0 => Self::Now,
            1 => Self::Sector(1 + chance.below(200)),
            _ => Self::Flush,
        }
    }
}

/// How many sectors a cut decided about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Written since the last flush, and there as written last.
    pub(crate) kept: usize,
    /// Gone, or there as something older.
    pub(crate) lost: usize,
}

struct Version {
    /// Its place in the order of all writes.
    number: u64,
    bytes: Box<[u8; SECTOR]>,
}

/// See the module.
pub(crate) struct Platter {
    durable: Vec<u8>,
    /// By sector, oldest first.
    unflushed: BTreeMap<usize, Vec<Version>>,
    writes: u64,
    pub(crate) flushes: u64,
    /// A disk that says it has flushed and has not: there to see that somebody notices.
    pub(crate) lies: bool,
    powered: bool,
    /// A cut that waits for its moment, with what it does.
    armed: Option<(Moment, Survival, Chance)>,
    /// What the latest cut did.
    loss: Loss,
}

impl Platter {
    /// All zeros. `size` is in bytes.
    pub(crate) fn new(size: usize) -> Self {
        assert_eq!(size % SECTOR, 0, "a disk is made of sectors");
        Self {
            durable: vec![0; size],
            unflushed: BTreeMap::new(),
            writes: 0,
            flushes: 0,
            lies: false,
            powered: true,
            armed: None,
            loss: Loss::default(),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.durable.len()
    }

    /// Writes at a byte; `None` without power, or beyond the end.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        let end = offset.checked_add(bytes.len()).filter(|end| self.powered && *end <= self.size())?;
        let mut at = offset;
        while at < end {
            let (sector, within) = (at / SECTOR, at % SECTOR);
            let count = (SECTOR - within).min(end - at);
            let mut content = Box::new(*self.sector(sector));
            content[within..within + count].copy_from_slice(&bytes[at - offset..at - offset + count]);
            self.writes += 1;
            let versions = self.unflushed.entry(sector).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(Version { number: self.writes, bytes: content });
            at += count;
            if let Some((Moment::Sector(left), ..)) = &mut self.armed {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.strike();
                    return None;
                }
            }
        }
        Some(())
    }

    /// What the disk would answer; `None` without power. Beyond the end there is nothing.
    pub(crate) fn read(&self, offset: usize, length: usize) -> Option<Vec<u8>> {
        if !self.powered {
            return None;
        }
        let offset = offset.min(self.size());
        let end = offset.saturating_add(length).min(self.size());
        let mut bytes = self.durable[offset..end].to_vec();
        for (sector, versions) in self.unflushed.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let content = &versions.last().expect("an un-flushed sector has contents").bytes;
            let start = sector * SECTOR;
            let (from, to) = (start.max(offset), (start + SECTOR).min(end));
            bytes[from - offset..to - offset].copy_from_slice(&content[from - start..to - start]);
        }
        Some(bytes)
    }

    fn sector(&self, sector: usize) -> &[u8; SECTOR] {
        if let Some(version) = self.unflushed.get(&sector).and_then(|versions| versions.last()) {
            return &version.bytes;
        }
        self.durable[sector * SECTOR..][..SECTOR].try_into().expect("a sector's length")
    }

    /// All that was written becomes durable; `None` without power.
    pub(crate) fn flush(&mut self) -> Option<()> {
        if !self.powered {
            return None;
        }
        if matches!(self.armed, Some((Moment::Flush, ..))) {
            self.strike();
            return None;
        }
        self.flushes += 1;
        if !self.lies {
            self.settle(|mut versions| versions.pop());
        }
        Some(())
    }

    /// Lets the power go at some moment: what survives is durable then, the rest is gone, and nothing works until
    /// [`Self::power_on`].
    pub(crate) fn cut(&mut self, moment: Moment, survival: Survival, chance: Chance) {
        self.armed = Some((moment, survival, chance));
        if moment == Moment::Now {
            self.strike();
        }
    }

    /// What the cut did, once it has come.
    pub(crate) fn struck(&self) -> Option<Loss> {
        (!self.powered).then_some(self.loss)
    }

    fn strike(&mut self) {
        let Some((_, survival, mut chance)) = self.armed.take() else { return };
        self.powered = false;
        let first = self.unflushed.values().flatten().map(|version| version.number).min().unwrap_or(0);
        let moment = first + chance.below(self.writes.saturating_sub(first) + 2);
        let mut loss = Loss::default();
        self.settle(|mut versions| {
            let last = versions.last().map(|version| version.number);
            let survivor = match survival {
                Survival::Everything => versions.pop(),
                Survival::Oldest => {
                    versions.retain(|version| version.number < moment);
                    versions.pop()
                }
                Survival::Some(eighths) if chance.below(8) < eighths => {
                    // Mostly the last: a disk rarely writes one sector twice.
                    let older = usize::from(chance.below(4) == 0) * (versions.len() - 1);
                    versions.truncate(versions.len() - older.min(1));
                    versions.pop()
                }
                Survival::Nothing | Survival::Some(_) => None,
            };
            if survivor.as_ref().map(|version| version.number) == last {
                loss.kept += 1;
            } else {
                loss.lost += 1;
            }
            survivor
        });
        self.loss = loss;
    }

    pub(crate) fn power_on(&mut self) {
        self.powered = true;
    }

    /// Makes durable what `choose` takes of each sector's contents, and forgets the rest.
    fn settle(&mut self, mut choose: impl FnMut(Vec<Version>) -> Option<Version>) {
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            if let Some(version) = choose(versions) {
                self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(&version.bytes[..]);
            }
        }
    }
}

mod tests {
    use super::*;

    /// Four sectors: `a` flushed in all of them, then `b` in the first three and `c` in the third.
    fn written() -> Platter {
        let mut platter = Platter::new(4 * SECTOR);
        platter.write(0, &[b'a'; 4 * SECTOR]).expect("there is power");
        platter.flush().expect("there is power");
        platter.write(0, &[b'b'; 3 * SECTOR]).expect("there is power");
        platter.write(2 * SECTOR, &[b'c'; SECTOR]).expect("there is power");
        platter
    }

    /// A letter for each sector, which is whole.
    fn letters(platter: &Platter) -> String {
        let bytes = platter.read(0, platter.size()).expect("there is power");
        let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(bytes.chunks(SECTOR).all(whole), "a sector is written whole or not at all");
        bytes.chunks(SECTOR).map(|sector| char::from(sector[0])).collect()
    }

    fn after_cut(survival: Survival, seed: u64) -> String {
        let mut platter = written();
        assert_eq!(letters(&platter), "bbca");
        platter.cut(Moment::Now, survival, Chance(seed));
        assert!(
            platter.read(0, 1).is_none() && platter.write(0, b"x").is_none() && platter.flush().is_none()
        );
        platter.power_on();
        letters(&platter)
    }

    #[test]
    fn a_cut_takes_what_was_not_flushed_and_nothing_else() {
        assert_eq!(after_cut(Survival::Nothing, 1), "aaaa");
        assert_eq!(after_cut(Survival::Everything, 1), "bbca");
        let mut platter = written();
        platter.flush().expect("there is power");
        platter.cut(Moment::Now, Survival::Nothing, Chance(1));
        platter.power_on();
        assert_eq!(letters(&platter), "bbca");
    }

    #[test]
    fn sectors_survive_in_every_combination_and_as_something_older() {
        let seen: std::collections::BTreeSet<String> =
            (1..2_000).map(|seed| after_cut(Survival::Some(4), seed)).collect();
        assert_eq!(seen.len(), 2 * 2 * 3, "{seen:?}");
        let seen: std::collections::BTreeSet<String> =
            (1..200).map(|seed| after_cut(Survival::Oldest, seed)).collect();
        assert_eq!(Vec::from_iter(seen), ["aaaa", "baaa", "bbaa", "bbba", "bbca"]);
    }

    #[test]
    fn part_of_a_sector_is_written_into_what_is_there() {
        let mut platter = written();
        platter.write(SECTOR - 1, b"xyz").expect("there is power");
        assert_eq!(platter.read(SECTOR - 2, 6).expect("there is power"), b"bxyzbb");
        assert!(platter.write(4 * SECTOR - 1, b"xy").is_none(), "beyond the end");
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing() {
        let mut platter = written();
        platter.lies = true;
        platter.flush().expect("it says so");
        assert_eq!(letters(&platter), "bbca");
        platter.cut(Moment::Now, Survival::Nothing, Chance(1));
        platter.power_on();
        assert_eq!(letters(&platter), "aaaa");
    }

    #[test]
    fn the_power_goes_at_its_moment() {
        let mut platter = written();
        platter.cut(Moment::Flush, Survival::Nothing, Chance(1));
        platter.write(0, b"x").expect("it still works");
        assert_eq!((platter.struck(), platter.flush()), (None, None));
        assert_eq!(platter.struck(), Some(Loss { kept: 0, lost: 3 }));
        platter.power_on();
        assert_eq!(letters(&platter), "aaaa");

        let mut platter = written();
        platter.cut(Moment::Sector(2), Survival::Everything, Chance(1));
        assert_eq!(platter.write(0, &[b'd'; 4 * SECTOR]), None);
        platter.power_on();
        assert_eq!(letters(&platter), "ddca");
    }
}
