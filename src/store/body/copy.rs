//! Bodies of a copy of a store: the same keys in files of the same numbers.
//!
//! Nothing is pinned or shared here: nobody else has these files. What a crash leaves is a copy that is not finished.

use std::collections::VecDeque;
use std::path::Path;

use super::chunks;
use super::files::{Access, Directory, Files, name};
use super::generation::{Writing, chunk_key, open_writing};
use crate::mail::queue_id::QueueId;
use crate::store::StoreError;
use crate::store::engine::redb::TABLE;

/// Files open at a time: bodies come in the order of their messages, which is that of the generations but for those moved.
const OPEN_MAX: usize = 4;
/// Octets in one commit.
const COMMIT_OCTETS: usize = 4 << 20;

/// Body files in the making.
pub struct CopiedBodies {
    files: Directory,
    cache_size: usize,
    /// The one opened last at the end.
    open: VecDeque<(u32, Writing)>,
    waiting: Vec<Chunk>,
    octets: usize,
}

struct Chunk {
    generation: u32,
    key: [u8; 16],
    bytes: Vec<u8>,
}

impl CopiedBodies {
    /// None yet, in this directory.
    pub fn new(directory: &Path, cache_size: usize) -> CopiedBodies {
        CopiedBodies {
            files: Directory::new(directory),
            cache_size: cache_size / OPEN_MAX,
            open: VecDeque::new(),
            waiting: Vec::new(),
            octets: 0,
        }
    }

    /// Takes octets of a body from `offset` on, whole chunks of it.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub fn write(
        &mut self,
        generation: u32,
        key: QueueId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        for (at, chunk) in chunks(bytes) {
            let key = chunk_key(key, offset + at);
            self.waiting.push(Chunk { generation, key, bytes: chunk.to_vec() });
        }
        self.octets += bytes.len();
        if self.octets >= COMMIT_OCTETS { self.commit() } else { Ok(()) }
    }

    /// Makes all of it durable and closes the files cleanly.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.commit()?;
        while let Some((number, writing)) = self.open.pop_front() {
            close(number, writing)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.octets = 0;
        waiting.sort_by_key(|chunk| (chunk.generation, chunk.key));
        for group in waiting.chunk_by(|a, b| a.generation == b.generation) {
            self.commit_to(group[0].generation, group)?;
        }
        Ok(())
    }

    fn commit_to(&mut self, number: u32, chunks: &[Chunk]) -> Result<(), StoreError> {
        let writing = match self.open.iter().position(|(open, _)| *open == number) {
            Some(at) => self.open.remove(at).map(|(_, writing)| writing),
            None => None,
        };
        let writing = match writing {
            Some(writing) => writing,
            None => {
                if self.open.len() == OPEN_MAX
                    && let Some((oldest, writing)) = self.open.pop_front()
                {
                    close(oldest, writing)?;
                }
                if !self.files.list()?.iter().any(|(made, _)| *made == number) {
                    self.files.create(number)?;
                }
                open_writing(&self.files, number, Access::Write, self.cache_size)?
            }
        };
        let written = || -> Result<(), redb::Error> {
            let transaction = writing.database.begin_write()?;
            let mut table = transaction.open_table(TABLE)?;
            for chunk in chunks {
                table.insert(&chunk.key[..], chunk.bytes.as_slice())?;
            }
            drop(table);
            Ok(transaction.commit()?)
        };
        written().map_err(|error| writing.trouble.explain(&name(number), error))?;
        self.open.push_back((number, writing));
        Ok(())
    }
}

fn close(number: u32, writing: Writing) -> Result<(), StoreError> {
    let Writing { database, trouble, .. } = writing;
    Ok(database.close().map_err(|error| trouble.explain(&name(number), error.into()))?)
}
