package mllp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw  string
		want int
	}{
		{"", 0}, {"\r\n", 0}, {"MSH|^~\\&|A", 1},
		{"FHS|^~\\&\rBHS|^~\\&\rMSH|^~\\&|A\rPID|1\rMSH|^~\\&|B\rBTS|2\rFTS|1", 2},
		{"MSH|^~\\&|A\n\nMSH|^~\\&|B\r\nPID|1\r\n", 2},
		{"stray\rMSH|^~\\&|A", 2},
	} {
		if got := Split([]byte(c.raw)); len(got) != c.want {
			t.Errorf("%q: %d messages, want %d", c.raw, len(got), c.want)
		}
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want string
		err  error
	}{
		{"\x0babc\x1c\r", "abc", nil},
		{"\r\n\x0babc\x1c\r", "abc", nil},
		{"\x0ba\x1cb\x1c\r", "a\x1cb", nil},
		{"\x0ba\x1c\x1c\r", "a\x1c", nil},
		{"", "", io.EOF},
		{"abc", "", ErrFrame},
		{"\x0babc", "", io.ErrUnexpectedEOF},
		{"\x0babc\x1c", "", io.ErrUnexpectedEOF},
		{"\x0b" + strings.Repeat("x", 101) + "\x1c\r", "", ErrTooLarge},
		{"\x0b" + strings.Repeat("x", 100) + "\x1c\r", strings.Repeat("x", 100), nil},
	} {
		got, err := Read(bufio.NewReaderSize(strings.NewReader(c.in), 16), 100)
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%.20q: %.20q, %v", c.in, got, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	for _, s := range []string{"", "\x0ba\x1c\r", "\x0ba\x1cb\x1c\r\x0b\x1c\r", "\r\n\x0b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(raw), 16)
		for {
			got, err := Read(r, 64)
			if err != nil {
				break
			}
			if len(got) > 64 {
				t.Fatalf("%d bytes", len(got))
			}
		}
		if !bytes.Contains(raw, []byte("\x1c\r")) && len(raw) < 64 {
			again, err := Read(bufio.NewReader(bytes.NewReader(Frame(raw))), 64)
			if len(raw) > 0 && raw[len(raw)-1] == End {
				return // its last byte and the end are one
			}
			if err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("framed %q, read %q, %v", raw, again, err)
			}
		}
	})
}
