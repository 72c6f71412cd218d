package es

import (
	"container/list"
	"sync"
)

// Cache keeps the folds of any number of Streams within a number of bytes; what
// was not used for longest goes first, whichever Streams it is of. Folds in use
// are kept whatever they take.
//
// The bytes are an estimate that costs nothing (see fold.size), so that a command
// is as fast as without.
type Cache struct {
	bytes int

	mu   sync.Mutex // guards all below and the entries of all its Streams; never held over a call
	idle *list.List // of entries in nobody's hands, least recently used first
	size int        // of all entries, as they were when they were last given back
}

// kept is an entry of Streams of any kind.
type kept interface{ forget() int }

// NewCache returns a Cache of about so many bytes.
func NewCache(bytes int) *Cache { return &Cache{bytes: bytes, idle: list.New()} }

const (
	// DefaultCache is the bytes of a Cache that is not told otherwise: some thousand streams.
	DefaultCache = 64 << 20
	// entryBytes is what an entry takes in the map, the list and the heap beside itself.
	entryBytes = 400
	// takenBytes is what a command takes that a fold remembers.
	takenBytes = 64
	// perByte is how many bytes a fold takes for a byte of the events it was made of:
	// they are kept decoded, and so are some of the states before.
	perByte = 4
)

// size estimates the memory that a fold points to. It counts what went in: to
// count what was made of it would take a walk through every state after every command.
func (f *fold[S]) size() int { return takenBytes*cap(f.taken) + perByte*f.data }
