package es

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/uuid"
)

// Forgetful plants the bug of not recognising a repeated command.
func Forgetful[S any](s *Streams[S]) { s.forgetful = true }

// IDsFromCommandOnly plants the bug that the package comment describes.
func IDsFromCommandOnly[S any](s *Streams[S]) {
	s.eventID = func(command uuid.UUID, n int, _ [sha256.Size]byte) uuid.UUID {
		return uuid.NewSHA1(command, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}
}

// CommandIn is how a fold finds the command in a metadata.
func CommandIn(metadata []byte) (uuid.UUID, bool) {
	id, _, ok := parseHead(metadata)
	return id, ok
}

// Counts returns what a cache counts, and what its idle folds add up to.
func Counts(c *Cache) (counted, idle int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.idle.Front(); e != nil; e = e.Next() {
		idle += e.Value.(interface{ bytes() int }).bytes()
	}
	return c.size, idle
}

func (e *entry[S]) bytes() int { return e.size }

// Kept says whether the fold of stream id is in the cache.
func Kept[S any](s *Streams[S], id string) bool {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return s.entries[s.decider.Category+"-"+id] != nil
}

// Unchecked plants the bug of not looking the journal up in the log.
func Unchecked(f *Follower) { f.unchecked = true }
