package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func parse(t testing.TB, raw string) message {
	t.Helper()
	m, err := parseMessage([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Separators, line ends, escapes, repetitions and depths, as systems send them.
func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, raw, path, want string }{
		{"CR", "MSH|^~\\&|A|B\rPID|1||9990000018^^^NHS", "PID-3.1", "9990000018"},
		{"LF", "MSH|^~\\&|A|B\nPID|1||9990000018^^^NHS\n", "PID-3.4", "NHS"},
		{"CRLF", "MSH|^~\\&|A|B\r\nPID|1||9990000018^^^NHS\r\n", "PID-3", "9990000018"},
		{"field separator", "MSH|^~\\&|A|B", "MSH-1", "|"},
		{"encoding characters", "MSH|^~\\&|A|B", "MSH-2", "^~\\&"},
		{"application", "MSH|^~\\&|A|B", "MSH-3", "A"},
		{"other separators", "MSH$%*?@$A$B\rPID$1$$1%2*3%4@5", "PID-3[2].2.2", "5"},
		{"repetition", "MSH|^~\\&\rPID|||1^^^X~2^^^Y", "PID-3[2].4", "Y"},
		{"no such repetition", "MSH|^~\\&\rPID|||1^^^X", "PID-3[2].4", ""},
		{"subcomponent", "MSH|^~\\&\rPID|||1^^^X&2.16&ISO", "PID-3.4.2", "2.16"},
		{"first of several PIDs", "MSH|^~\\&\rPID|||1\rPID|||2", "PID-3", "1"},
		{"escapes", "MSH|^~\\&\rPID|||||O\\T\\B\\F\\C\\S\\D\\R\\E\\E\\F", "PID-5.1", "O&B|C^D~E\\F"},
		{"hex", "MSH|^~\\&\rPID|||||M\\XFC\\ller", "PID-5.1", "Müller"},
		{"unknown escape stays", "MSH|^~\\&\rPID|||||A\\Zx\\B", "PID-5.1", "A\\Zx\\B"},
		{"open escape stays", "MSH|^~\\&\rPID|||||A\\B", "PID-5.1", "A\\B"},
		{"delete is none", "MSH|^~\\&\rPID|||||\"\"", "PID-5.1", ""},
		{"Z segment", "MSH|^~\\&\rZU1|a|b", "ZU1-2", "b"},
		{"byte order mark", "\xef\xbb\xbfMSH|^~\\&|A", "MSH-3", "A"},
		{"indented", "MSH|^~\\&|A\n   PID|||7", "PID-3", "7"},
		{"Latin-1 declared", "MSH|^~\\&||||||||||||||||8859/1\rPID|||||M\xfcller", "PID-5.1", "Müller"},
		{"UTF-8 declared", "MSH|^~\\&||||||||||||||||UNICODE UTF-8\rPID|||||Müller", "PID-5.1", "Müller"},
		{"nothing declared", "MSH|^~\\&\rPID|||||O\x92Neill", "PID-5.1", "O’Neill"},
		{"short MSH-2", "MSH|^|A\rPID|||1~2", "PID-3[2]", "2"},
	} {
		if got := parse(t, c.raw).get(c.path); got != c.want {
			t.Errorf("%s: %s is %q, want %q", c.name, c.path, got, c.want)
		}
	}
	for name, raw := range map[string]string{
		"empty": "", "white": " \r\n", "no MSH": "PID|1", "cut": "MSH", "two alike": "MSH|^^\\&|", "not UTF-8": "MSH|^~\\&||||||||||||||||UNICODE UTF-8\rPID|||||\xff",
		"unknown set": "MSH|^~\\&||||||||||||||||ISO IR87\rPID|||||\xff",
	} {
		if _, err := parseMessage([]byte(raw)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestSplitBatch(t *testing.T) {
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
		if got := SplitBatch([]byte(c.raw)); len(got) != c.want {
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
		{"abc", "", errFrame},
		{"\x0babc", "", io.ErrUnexpectedEOF},
		{"\x0babc\x1c", "", io.ErrUnexpectedEOF},
		{"\x0b" + strings.Repeat("x", 101) + "\x1c\r", "", errTooLarge},
		{"\x0b" + strings.Repeat("x", 100) + "\x1c\r", strings.Repeat("x", 100), nil},
	} {
		got, err := readFrame(bufio.NewReaderSize(strings.NewReader(c.in), 16), 100)
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%.20q: %.20q, %v", c.in, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "MSH|^~\\&|A|B\rPID|1||9990000018^^^NHS~2", "MSH$%*?@$A\rPID$$$1%2@3*4\rZZZ", "\xff\xfeM\x00S\x00H\x00|\x00^\x00", "MSH|^~\\&||||||||||||||||8859/1\rPID|||||\\XFC\\\\.br\\", "FHS|\rBHS|\rMSH|^~\\&\rBTS|1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var text int
		for _, one := range SplitBatch(raw) {
			text += len(one)
			m, err := parseMessage(one)
			if err != nil {
				continue
			}
			for _, s := range m.segments {
				for f := range s.fields {
					for r := range m.count(s, f) {
						m.at(s, f, r+1, 1, 1)
						m.at(s, f, r+1, 4, 2)
					}
				}
			}
		}
		if text > 3*len(raw) {
			t.Fatalf("%d bytes became %d", len(raw), text)
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, s := range []string{"", "\x0ba\x1c\r", "\x0ba\x1cb\x1c\r\x0b\x1c\r", "\r\n\x0b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(raw), 16)
		for {
			got, err := readFrame(r, 64)
			if err != nil {
				break
			}
			if len(got) > 64 {
				t.Fatalf("%d bytes", len(got))
			}
		}
		if !bytes.Contains(raw, []byte("\x1c\r")) && len(raw) < 64 {
			again, err := readFrame(bufio.NewReader(bytes.NewReader(Frame(raw))), 64)
			if len(raw) > 0 && raw[len(raw)-1] == frameEnd {
				return // its last byte and the end are one
			}
			if err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("framed %q, read %q, %v", raw, again, err)
			}
		}
	})
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"PID-3", "PID-3.4", "PID-3[2].4", "PID-3[2].4.2", "ZU1-12"} {
		p, err := parsePath(s)
		if err != nil || p.String() != s {
			t.Errorf("%s: %s, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "PID", "PID-", "PID-x", "PID-0", "PID-3[", "PID-3[x]", "PID-3.", "PID-3.1.2.3"} {
		if _, err := parsePath(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
