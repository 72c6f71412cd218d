package edge

import (
	"bufio"
	"errors"
	"io"
)

// The frame of the Minimal Lower Layer Protocol.
const (
	frameStart = 0x0b
	frameEnd   = 0x1c
	frameCR    = 0x0d
)

// MaxMessage is the most bytes a message may have. A larger one is answered with
// AR and the connection is closed: no more than this is ever held of it.
const MaxMessage = 512 << 10

var (
	errTooLarge = errors.New("the message is larger than 512 KiB")
	errFrame    = errors.New("a frame begins with 0x0b and ends with 0x1c 0x0d")
)

// readFrame reads one frame and returns what is inside. Bytes before 0x0b are
// skipped when they are white space, else refused. io.EOF means that the sender
// closed between two frames; an end within one is io.ErrUnexpectedEOF.
func readFrame(r *bufio.Reader, most int) ([]byte, error) {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		if c == frameStart {
			break
		}
		if c != '\r' && c != '\n' && c != ' ' {
			return nil, errFrame
		}
	}
	var out []byte
	for {
		part, err := r.ReadSlice(frameEnd)
		if len(out)+len(part) > most+1 {
			return nil, errTooLarge
		}
		out = append(out, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		next, err := r.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case next == frameCR:
			return out[:len(out)-1], nil
		}
		// 0x1c within a message: no text of HL7, but not ours to lose.
		if err := r.UnreadByte(); err != nil {
			return nil, err
		}
	}
}

// Frame puts a message into a frame.
func Frame(message []byte) []byte {
	out := make([]byte, 0, len(message)+3)
	out = append(out, frameStart)
	out = append(out, message...)
	return append(out, frameEnd, frameCR)
}

// ReadFrame reads one framed answer; for clients.
func ReadFrame(r *bufio.Reader) ([]byte, error) { return readFrame(r, MaxMessage) }
