package e2e

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"waymark/services/kit/nhs"
)

// Stories holds the stories, and in given/ the beginnings that they share.
//
//go:embed stories
var Stories embed.FS

// Party is who is named at the top of a story: a person, a team or a system.
type Party struct {
	Name         string // as the story calls it
	Kind         string // of a care-lead party: TEAM, PERSON_IN_ROLE or FALLBACK_POOL
	Code         string // a team's own code, or how the party is known
	User         string // SDS user id, or the name of a system
	Role         string // SDS job role code
	Organisation string // ODS code
}

// Line is a line of a story, without its indentation.
type Line struct {
	File   string
	Number int
	Text   string
}

// At returns an error at the line.
func (l Line) At(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", l.File, l.Number, fmt.Sprintf(format, args...))
}

// Step is one thing that happens or is looked at, with the lines indented below it.
type Step struct {
	Line
	Moves bool      // to Time; else Text says what happens
	Time  time.Time // in UTC
	Given bool      // part of the beginning: not looked at
	Under []Line
}

// Story is a file as it was read, with what it was given put in place.
type Story struct {
	Title   string
	Parties map[string]Party
	Steps   []Step
}

var (
	team   = regexp.MustCompile(`^(.+) is (team|pool) (\S+) of (\S+)$`)
	person = regexp.MustCompile(`^(.+) is user (\S+) in role (R\d{4}) of (\S+)$`)
	system = regexp.MustCompile(`^(.+) is system (\S+) of (\S+)$`)
)

// ReadStory reads the story at name in files.
func ReadStory(files fs.FS, name string) (*Story, error) {
	s := &Story{Parties: map[string]Party{}}
	if err := s.read(files, name, false); err != nil {
		return nil, err
	}
	if s.Title == "" {
		return nil, fmt.Errorf("%s:1: the first line must be Story: and its title", name)
	}
	return s, nil
}

func (s *Story) read(files fs.FS, name string, given bool) error {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return err
	}
	for i, raw := range strings.Split(string(text), "\n") {
		line := Line{File: name, Number: i + 1, Text: strings.TrimSpace(raw)}
		indent := len(raw) - len(strings.TrimLeft(raw, " "))
		switch {
		case line.Text == "" || strings.HasPrefix(line.Text, "#"):
		case strings.Contains(raw, "\t"):
			return line.At("a tab: indent with two spaces")
		case indent == 0:
			err = s.top(files, line, given)
		case indent == 2:
			s.Steps = append(s.Steps, Step{Line: line, Given: given})
		case indent == 4 && len(s.Steps) > 0 && !s.Steps[len(s.Steps)-1].Moves:
			last := &s.Steps[len(s.Steps)-1]
			last.Under = append(last.Under, line)
		default:
			return line.At("indented by %d: a step by two spaces, what belongs to it by four", indent)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// top takes a line that is not indented.
func (s *Story) top(files fs.FS, line Line, given bool) error {
	verb, rest, _ := strings.Cut(line.Text, " ")
	switch verb {
	case "Story:":
		if !given {
			s.Title = rest
		}
		return nil
	case "given":
		if err := s.read(files, "stories/given/"+strings.ReplaceAll(rest, " ", "-")+".story", true); err != nil {
			return line.At("given: %v", err)
		}
		return nil
	case "at":
		when, _, _ := strings.Cut(rest, ",") // what follows a comma is for people
		at, err := ParseTime(when)
		if err != nil {
			return line.At("%v", err)
		}
		s.Steps = append(s.Steps, Step{Line: line, Moves: true, Time: at, Given: given})
		return nil
	}
	var p Party
	if m := team.FindStringSubmatch(line.Text); m != nil {
		p = Party{Name: m[1], Kind: "TEAM", Code: m[3], Organisation: m[4]}
		if m[2] == "pool" {
			p.Kind = "FALLBACK_POOL"
		}
	} else if m := person.FindStringSubmatch(line.Text); m != nil {
		p = Party{Name: m[1], Kind: "PERSON_IN_ROLE", Code: m[2], User: m[2], Role: m[3], Organisation: m[4]}
	} else if m := system.FindStringSubmatch(line.Text); m != nil {
		p = Party{Name: m[1], Kind: "TEAM", Code: m[2], User: m[2], Organisation: m[3]}
	} else {
		return line.At("%q is none of: Story:, given, at, NAME is team CODE of ODS, NAME is pool CODE of ODS, NAME is user SDS in role R0000 of ODS, NAME is system NAME of ODS", line.Text)
	}
	if _, twice := s.Parties[p.Name]; twice {
		return line.At("%s is named twice", p.Name)
	}
	s.Parties[p.Name] = p
	return nil
}

// ParseTime reads a time of England such as "2026-07-06 09:00".
func ParseTime(text string) (time.Time, error) {
	t, err := time.ParseInLocation("2006-01-02 15:04", text, london())
	if err != nil {
		return t, fmt.Errorf("%q is no time such as 2026-07-06 09:00", text)
	}
	return t.UTC(), nil
}

// london is the time zone of stories; midnight of a civil date is in it.
func london() *time.Location {
	day, _ := nhs.NewDate(2026, time.July, 1)
	return day.Start().Location()
}
