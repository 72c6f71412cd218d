// Package mllp frames HL7 v2 messages for the wire (Minimal Lower Layer
// Protocol) and finds them in files. It is what a client and the edge share.
package mllp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"unicode/utf16"
)

// The frame of the Minimal Lower Layer Protocol.
const (
	Start   = 0x0b
	End     = 0x1c // and then a carriage return
	frameCR = 0x0d
)

// MaxMessage is the most bytes a message may have. A larger one is answered with
// AR and the connection is closed: no more than this is ever held of it.
const MaxMessage = 512 << 10

var (
	// ErrTooLarge ends a connection: the rest of the message is never read.
	ErrTooLarge = errors.New("the message is larger than 512 KiB")
	// ErrFrame says that the sender does not speak the protocol.
	ErrFrame = errors.New("a frame begins with 0x0b and ends with 0x1c 0x0d")
)

// Read reads one frame and returns what is inside. Bytes before 0x0b are
// skipped when they are white space, else refused. io.EOF means that the sender
// closed between two frames; an end within one is io.ErrUnexpectedEOF.
func Read(r *bufio.Reader, most int) ([]byte, error) {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		if c == Start {
			break
		}
		if c != '\r' && c != '\n' && c != ' ' {
			return nil, ErrFrame
		}
	}
	var out []byte
	for {
		part, err := r.ReadSlice(End)
		if len(out)+len(part) > most+1 {
			return nil, ErrTooLarge
		}
		if need := len(out) + len(part); need > cap(out) {
			// As append would, but never more room than a message may have: many
			// senders may each have one half sent.
			out = append(make([]byte, 0, min(max(2*cap(out), need), most+1)), out...)
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
	out = append(out, Start)
	out = append(out, message...)
	return append(out, End, frameCR)
}

// Split cuts a file or a frame into messages: at each line that begins with
// MSH. The envelopes of a batch (FHS, BHS, BTS, FTS) belong to no message. Text
// before the first MSH that is no envelope is a message of its own, which will
// be refused rather than lost.
func Split(raw []byte) (messages [][]byte) {
	var one []byte
	end := func() {
		if len(bytes.TrimSpace(one)) > 0 {
			messages = append(messages, one)
		}
		one = nil
	}
	if text, ok := UTF16(raw); ok {
		raw = []byte(text)
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	for len(raw) > 0 {
		n := bytes.IndexAny(raw, "\r\n")
		line := raw
		if n >= 0 {
			line, raw = raw[:n+1], raw[n+1:]
		} else {
			raw = nil
		}
		head := bytes.TrimLeft(line, " \t\v\x1c")
		switch {
		case bytes.HasPrefix(head, []byte("FHS")), bytes.HasPrefix(head, []byte("BHS")), bytes.HasPrefix(head, []byte("BTS")), bytes.HasPrefix(head, []byte("FTS")):
			end()
			continue
		case bytes.HasPrefix(head, []byte("MSH")):
			end()
			line = head
		}
		one = append(one, line...)
	}
	end()
	return messages
}

// UTF16 decodes text that begins with a byte order mark of UTF-16; other text
// it leaves to its caller.
func UTF16(raw []byte) (string, bool) {
	if len(raw) < 2 || !(raw[0] == 0xfe && raw[1] == 0xff || raw[0] == 0xff && raw[1] == 0xfe) {
		return "", false
	}
	little := raw[0] == 0xff
	units := make([]uint16, 0, len(raw)/2)
	for i := 2; i+1 < len(raw); i += 2 {
		if little {
			units = append(units, uint16(raw[i])|uint16(raw[i+1])<<8)
		} else {
			units = append(units, uint16(raw[i])<<8|uint16(raw[i+1]))
		}
	}
	return string(utf16.Decode(units)), true
}
