package main

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// column is one of a table: what it shows of each row.
type column struct {
	head    string
	paths   []string // the first that holds something is shown
	sparing bool     // left out where no row has it
}

// columnsOf reads columns as verbs.go writes them: paths, or path|path:HEAD, and a
// "?" after one that is left out where it is empty.
func columnsOf(text string) (columns []column) {
	for _, word := range strings.Fields(text) {
		word, sparing := strings.CutSuffix(word, "?")
		path, head, named := strings.Cut(word, ":")
		if !named {
			head = strings.ToUpper(path[strings.LastIndex(path, ".")+1:])
		}
		columns = append(columns, column{head, strings.Split(path, "|"), sparing})
	}
	return columns
}

// invokeList prints the rows of a reply, its first repeated field, as
// a table or a line each.
func (c *cli) invokeList(ctx context.Context, conn *grpc.ClientConn, t *target, m method, request *dynamicpb.Message, shown []column) error {
	reply := dynamicpb.NewMessage(m.desc.Output())
	if err := conn.Invoke(ctx, m.path(), request, reply); err != nil {
		return c.hint(t, m, request, err)
	}
	rows := rowsOf(reply)
	if c.format == "ndjson" {
		for _, row := range rows {
			if err := c.printMessage(row.Interface(), false); err != nil {
				return err
			}
		}
	} else if err := c.table(rows, shown); err != nil {
		return err
	}
	if len(rows) == 0 {
		c.say("none")
	}
	fields := m.desc.Output().Fields()
	if f := fields.ByName("next_page_token"); f != nil && reply.Get(f).String() != "" {
		c.say("there is more: page_token=%s", reply.Get(f).String())
	}
	if f := fields.ByName("freshness"); f != nil && cell(reply, "freshness.stale") == "true" {
		c.say("this list is %s seconds behind the log", cell(reply, "freshness.behind_seconds"))
	}
	return nil
}

// rowsOf returns the elements of the first field that repeats messages.
func rowsOf(reply protoreflect.Message) (rows []protoreflect.Message) {
	fields := reply.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.IsList() && f.Message() != nil {
			for j := range reply.Get(f).List().Len() {
				rows = append(rows, reply.Get(f).List().Get(j).Message())
			}
			break
		}
	}
	return rows
}

func (c *cli) table(rows []protoreflect.Message, shown []column) error {
	var head []string
	lines := make([][]string, len(rows))
	for _, col := range shown {
		cells, any := make([]string, len(rows)), false
		for i, row := range rows {
			for _, path := range col.paths {
				if cells[i] = cell(row, path); cells[i] != "" {
					any = true
					break
				}
			}
		}
		if col.sparing && !any {
			continue
		}
		head = append(head, col.head)
		for i := range rows {
			lines[i] = append(lines[i], cells[i])
		}
	}
	return list(c, head, lines, func(line []string) []string { return line })
}

// cell is the value at a path of a message as a table shows it.
func cell(m protoreflect.Message, path string) string {
	name, rest, nested := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch {
	case f == nil || f.HasPresence() && !m.Has(f):
		return ""
	case nested && f.Message() != nil:
		return cell(m.Get(f).Message(), rest)
	case f.IsList() && f.Message() == nil:
		var all []string
		for i := range m.Get(f).List().Len() {
			all = append(all, m.Get(f).List().Get(i).String())
		}
		return strings.Join(all, ",")
	case f.Enum() != nil:
		if m.Get(f).Enum() == 0 {
			return ""
		}
		text := string(f.Enum().Values().ByNumber(m.Get(f).Enum()).Name())
		return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(text, enumPrefix(f.Enum())), "_", " "))
	case f.Message() != nil && f.Message().FullName() == "google.protobuf.Timestamp":
		fields := f.Message().Fields()
		return england(time.Unix(m.Get(f).Message().Get(fields.ByNumber(1)).Int(), 0)).Format(time.RFC3339)
	case f.Message() != nil && f.Message().Name() == "Figure": // a number that may be hidden
		if cell(m.Get(f).Message(), "suppressed") == "true" {
			return "*"
		}
		fields := f.Message().Fields()
		number := m.Get(f).Message().Get(fields.ByNumber(1)).Float()
		return strconv.FormatFloat(math.Round(10*number)/10, 'f', -1, 64)
	}
	return m.Get(f).String()
}

// enumPrefix is what all values of an enum begin with: LEAD_STATE_ for LeadState.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
}
