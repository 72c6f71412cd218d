package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// caller says who calls and why; it fills the command header where the request
// leaves it open.
type caller struct {
	User         string `flag:"user" help:"SDS user id of the person, or name of the system, that acts (default waymark-cli, on this machine only)"`
	Role         string `flag:"role" help:"SDS job role code of the person, for example R0600"`
	Organisation string `flag:"organisation" help:"ODS code of the organisation that acts (default RJ1, on this machine only)"`
	OnBehalfOf   string `flag:"on-behalf-of" help:"SDS user id of the person on whose behalf a system acts"`
	Tenant       string `flag:"tenant" help:"ODS code of the trust whose record it is (default: that of the record; for a new one the organisation that acts)"`
	Purpose      string `flag:"purpose" help:"purpose of use, such as TREAT (the default) or BTG"`
	Reason       string `flag:"reason" help:"reason in your words, without patient data"`
	CommandID    string `flag:"command-id" help:"UUID of the command; give the one printed before to repeat a call safely"`
}

const callHelp = `Call any method of the services, with JSON in and JSON out.

METHOD is its name in the contract, or the short form that --list prints.
Fields are given as JSON (--data, @file or - for stdin) and as field=value arguments,
with a.b=value for a field of a nested message; a repeated field is given several times.

The command header is filled where you leave it open: a new command_id (printed, so that
the call can be repeated safely with --command-id) and the actor from --user, --role and
--organisation.

Examples:
  waymark call --list
  waymark call --describe referral.AcceptReferral
  waymark call referral.AcceptReferral --data '{"referral_id": "..."}'
  waymark call referral.AcceptReferral referral_id=... --organisation RRV
  ID=$(waymark call referral.DraftReferral --data @draft.json --field referral.referral_id)`

func (c *cli) callCommand() *cobra.Command {
	var t *target
	var who caller
	var data, field string
	var listing, describing bool
	cmd := &cobra.Command{
		Use: "call METHOD [field=value ...]", Short: "Call any method of the services", Long: callHelp,
		ValidArgsFunction: func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, m := range contract() {
				if strings.HasPrefix(m.short, typed) {
					names = append(names, m.short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case listing && len(args) < 2:
				return c.listMethods(strings.Join(args, ""))
			case describing && len(args) == 1:
				return c.describe(args[0])
			case listing || describing || len(args) == 0:
				return usage(cmd, errors.New("name a method, or ask for --list"))
			}
			m, err := find(args[0])
			if err != nil {
				return err
			}
			request, err := c.request(m, data, args[1:])
			if err != nil {
				return &coded{err, exitUsage, "waymark call --describe " + m.short}
			}
			if err := c.fill(request, &who, t); err != nil {
				return usage(cmd, err)
			}
			return c.invoke(cmd.Context(), t, m, request, field)
		},
	}
	t = c.bindTarget(cmd)
	run.Bind(cmd.Flags(), &who)
	cmd.Flags().StringVarP(&data, "data", "d", "", "the request as JSON, @file, or - for stdin")
	cmd.Flags().StringVar(&field, "field", "", "print only this field of the reply, such as referral.referral_id; for scripts")
	cmd.Flags().BoolVar(&listing, "list", false, "list the methods (that begin with METHOD)")
	cmd.Flags().BoolVar(&describing, "describe", false, "show the fields of METHOD's request and reply, or of a message")
	return cmd
}

// request reads the request of m from --data and field=value arguments.
func (c *cli) request(m method, data string, pairs []string) (*dynamicpb.Message, error) {
	raw := []byte(data)
	var err error
	switch {
	case data == "":
		raw = []byte("{}")
	case data == "-":
		raw, err = io.ReadAll(c.in)
	case strings.HasPrefix(data, "@"):
		raw, err = os.ReadFile(data[1:])
	}
	if err != nil {
		return nil, err
	}
	if len(pairs) > 0 {
		fields := map[string]any{}
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.UseNumber()
		if err := decoder.Decode(&fields); err != nil {
			return nil, fmt.Errorf("--data is not a JSON object: %w", err)
		}
		for _, pair := range pairs {
			path, value, ok := strings.Cut(pair, "=")
			if !ok {
				return nil, fmt.Errorf("%q is not field=value", pair)
			}
			if err := assign(fields, m.desc.Input(), path, value); err != nil {
				return nil, err
			}
		}
		if raw, err = json.Marshal(fields); err != nil {
			return nil, err
		}
	}
	request := dynamicpb.NewMessage(m.desc.Input())
	if err := protojson.Unmarshal(raw, request); err != nil {
		return nil, errors.New(plain(err))
	}
	return request, nil
}

// assign puts value at path, as the type of the field there wants it.
func assign(fields map[string]any, desc protoreflect.MessageDescriptor, path, value string) error {
	name, rest, nested := strings.Cut(path, ".")
	f := desc.Fields().ByName(protoreflect.Name(name))
	if f == nil {
		f = desc.Fields().ByJSONName(name)
	}
	if f == nil {
		return fmt.Errorf("%s has no field %q; it has %s", desc.Name(), name, strings.Join(fieldNames(desc), ", "))
	}
	key := string(f.Name())
	if nested {
		if f.Message() == nil || f.IsList() || f.IsMap() {
			return fmt.Errorf("%s is no single message: give it as JSON", name)
		}
		inner, ok := fields[key].(map[string]any)
		if !ok {
			inner = map[string]any{}
			fields[key] = inner
		}
		return assign(inner, f.Message(), rest, value)
	}
	if f.Enum() != nil && !strings.HasPrefix(value, "[") {
		value = enumValue(f.Enum(), value)
	}
	var v any = value
	text := f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind || f.Kind() == protoreflect.EnumKind
	wellKnown := f.Message() != nil && f.Message().ParentFile().Package() == "google.protobuf"
	if (!text && !wellKnown || f.IsMap()) && json.Valid([]byte(value)) {
		v = json.RawMessage(value)
	}
	if f.IsList() && !strings.HasPrefix(value, "[") {
		before, _ := fields[key].([]any)
		v = append(before, v)
	} else if f.IsList() {
		v = json.RawMessage(value)
	}
	fields[key] = v
	return nil
}

// enumValue completes a value of an enum that was given without what all its
// values begin with.
func enumValue(e protoreflect.EnumDescriptor, value string) string {
	full := protoreflect.Name(enumPrefix(e) + strings.ToUpper(strings.ReplaceAll(value, "-", "_")))
	if e.Values().ByName(protoreflect.Name(value)) == nil && e.Values().ByName(full) != nil {
		return string(full)
	}
	return value
}

func fieldNames(desc protoreflect.MessageDescriptor) (names []string) {
	for i := range desc.Fields().Len() {
		names = append(names, string(desc.Fields().Get(i).Name()))
	}
	return names
}

// fill completes the command header of request, where it has one.
func (c *cli) fill(request *dynamicpb.Message, who *caller, t *target) error {
	field := request.Descriptor().Fields().ByName("command")
	if field == nil || field.Message() == nil || field.Message().FullName() != (&metav1.Command{}).ProtoReflect().Descriptor().FullName() {
		return nil
	}
	command := &metav1.Command{}
	if request.Has(field) {
		given, err := proto.Marshal(request.Get(field).Message().Interface())
		if err == nil {
			err = proto.Unmarshal(given, command)
		}
		if err != nil {
			return err
		}
	}
	if command.Actor == nil {
		command.Actor = &metav1.Actor{}
	}
	actor := command.Actor
	set := func(field *string, flag, otherwise string) {
		if *field == "" {
			*field = or(flag, otherwise)
		}
	}
	user, organisation := "", ""
	if t.local() {
		user, organisation = "waymark-cli", "RJ1"
	}
	set(&actor.User, who.User, user)
	set(&actor.RoleCode, who.Role, "")
	set(&actor.Organisation, who.Organisation, organisation)
	set(&actor.OnBehalfOf, who.OnBehalfOf, "")
	set(&command.Tenant, who.Tenant, "")
	set(&command.Purpose, who.Purpose, "")
	set(&command.Reason, who.Reason, "")
	if actor.User == "" || actor.Organisation == "" {
		return errors.New("say who acts: --user and --organisation")
	}
	if command.CommandId == "" {
		command.CommandId = or(who.CommandID, uuid.NewString())
		c.say("command_id: %s", command.CommandId)
	}
	header := request.NewField(field).Message()
	bytes, err := proto.Marshal(command)
	if err == nil {
		err = proto.Unmarshal(bytes, header.Interface())
	}
	if err != nil {
		return err
	}
	request.Set(field, protoreflect.ValueOfMessage(header))
	return nil
}

// invoke calls m and prints its reply, or one field of it, or its replies when it
// streams them.
func (c *cli) invoke(ctx context.Context, t *target, m method, request *dynamicpb.Message, field string) error {
	conn, err := t.dial()
	if err != nil {
		return usage(nil, err)
	}
	defer conn.Close()
	if m.desc.IsStreamingClient() {
		return &coded{fmt.Errorf("%s takes a stream of requests: not with this command", m.short), exitUsage, ""}
	}
	if m.desc.IsStreamingServer() {
		return c.hint(t, m, request, c.stream(ctx, conn, m, request))
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	reply := dynamicpb.NewMessage(m.desc.Output())
	if err := conn.Invoke(ctx, m.path(), request, reply); err != nil {
		return c.hint(t, m, request, err)
	}
	if field != "" {
		return c.printField(reply, field)
	}
	return c.printMessage(reply, c.format != "ndjson")
}

// printField prints the value at a path such as referral.referral_id, bare;
// slots.0.slot_id is of the first of a list.
func (c *cli) printField(m protoreflect.Message, path string) error {
	name, rest, nested := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch {
	case f == nil:
		return &coded{fmt.Errorf("the reply's %s has no field %q; it has %s", m.Descriptor().Name(), name, strings.Join(fieldNames(m.Descriptor()), ", ")), exitUsage, ""}
	case nested && f.IsList() && f.Message() != nil:
		index, rest, further := strings.Cut(rest, ".")
		i, err := strconv.Atoi(index)
		switch {
		case err != nil || i < 0 || !further:
			return &coded{fmt.Errorf("%s is a list: say which, such as %s.0.%s", name, name, fieldNames(f.Message())[0]), exitUsage, ""}
		case i >= m.Get(f).List().Len():
			return notFound("", "the reply's %s has %d", name, m.Get(f).List().Len())
		}
		return c.printField(m.Get(f).List().Get(i).Message(), rest)
	case nested && (f.Message() == nil || f.IsMap()):
		return &coded{fmt.Errorf("%s is no single message", name), exitUsage, ""}
	case nested:
		return c.printField(m.Get(f).Message(), rest)
	case !m.Has(f) && f.HasPresence():
		return notFound("", "the reply has no %s", path)
	case f.IsList() || f.IsMap():
		return &coded{fmt.Errorf("%s is a list or a map", name), exitUsage, ""}
	case f.Message() != nil:
		return c.printMessage(m.Get(f).Message().Interface(), c.format != "ndjson")
	case f.Enum() != nil:
		if v := f.Enum().Values().ByNumber(m.Get(f).Enum()); v != nil {
			_, err := fmt.Fprintln(c.out, v.Name())
			return err
		}
	}
	_, err := fmt.Fprintln(c.out, m.Get(f).Interface())
	return err
}

func (c *cli) stream(ctx context.Context, conn *grpc.ClientConn, m method, request *dynamicpb.Message) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, m.path())
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	for err == nil {
		reply := dynamicpb.NewMessage(m.desc.Output())
		if err = stream.RecvMsg(reply); err == nil {
			err = c.printMessage(reply, c.format == "json")
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// hint adds what to do next to the error of a call.
func (c *cli) hint(t *target, m method, request *dynamicpb.Message, err error) error {
	if err == nil {
		return nil
	}
	next := ""
	switch codeOf(err) {
	case codes.InvalidArgument:
		next = "waymark call --describe " + m.short
	case codes.Unimplemented:
		next = "the service there does not offer " + m.short + "; is it of this version? waymark version"
	case codes.Unavailable:
		next = fmt.Sprintf("is it running at %s? waymark doctor%s", t.grpcAddress(), t.flags())
		if t.local() {
			next += ", or start it: waymark dev"
			if t.PortOffset != 0 {
				next += fmt.Sprintf(" --port-offset %d", t.PortOffset)
			}
		}
	case codes.Aborted, codes.DeadlineExceeded, codes.ResourceExhausted:
		if id := commandID(request); id != "" {
			next = "repeat it with --command-id " + id + ": it is recorded once, however often it is sent"
		}
	case codes.FailedPrecondition, codes.AlreadyExists:
		if fault.CodeOf(err) != "" {
			next = "read the record, then decide again; repeating this as it is will be refused again"
		}
	}
	return &coded{err, exitOf(err), next}
}

func commandID(request *dynamicpb.Message) string {
	field := request.Descriptor().Fields().ByName("command")
	if field == nil || field.Message() == nil || !request.Has(field) {
		return ""
	}
	id := field.Message().Fields().ByName("command_id")
	if id == nil {
		return ""
	}
	return request.Get(field).Message().Get(id).String()
}

// printMessage prints a message with the field names of the contract.
func (c *cli) printMessage(m proto.Message, indent bool) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	if c.format != "table" {
		return c.printJSON(raw, indent)
	}
	var value any
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return err
	}
	rows := flatten("", value, nil)
	slices.SortStableFunc(rows, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return list(c, []string{"FIELD", "VALUE"}, rows, func(r [2]string) []string { return r[:] })
}

// flatten lists the leaves of a JSON value with their paths.
func flatten(path string, value any, rows [][2]string) [][2]string {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			rows = flatten(strings.TrimPrefix(path+"."+key, "."), inner, rows)
		}
	case []any:
		for i, inner := range v {
			rows = flatten(fmt.Sprintf("%s[%d]", path, i), inner, rows)
		}
	default:
		rows = append(rows, [2]string{path, fmt.Sprint(v)})
	}
	return rows
}

// plain removes what protojson says about itself.
func plain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimSpace(strings.TrimPrefix(text, "proto:"))
}
