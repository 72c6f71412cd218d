package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The rules. Each has at least one planted violation.
const (
	ruleRoom     = "room"      // every package lies in a listed room
	ruleEmpty    = "empty"     // every listed room has package files
	ruleImport   = "import"    // rooms import only what their kind may
	ruleDriver   = "driver"    // third-party drivers stay in their rooms
	ruleIdle     = "idle"      // every listed driver is imported somewhere
	ruleTestOnly = "test-only" // test kits stay out of products
	ruleClock    = "clock"     // time is passed in
	ruleInit     = "init"      // no init functions
	ruleState    = "state"     // package variables are never changed
)

const (
	module      = "waymark/services/"
	protoModule = "waymark/proto/"
)

// violation of a rule at a line of a file; File is a folder where the rule is about one.
type violation struct {
	rule, file string
	line       int
	text       string
}

func (v violation) String() string {
	return fmt.Sprintf("%s:%d: [%s] %s", v.file, v.line, v.rule, v.text)
}

// report of a walk: what was broken, and how much was looked at.
type report struct {
	violations               []violation
	packages, files, imports int
}

type file struct {
	name string // path from the root
	room string
	kind kind
	test bool
	ast  *ast.File
}

// check walks the services module at root and applies every rule.
func check(root fs.FS) (*report, error) {
	r := &report{}
	fset := token.NewFileSet()
	folders := map[string][]file{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || len(d.Name()) > 1 && strings.ContainsAny(d.Name()[:1], "._")) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if ast.IsGenerated(parsed) {
			return nil
		}
		f := file{name: name, room: roomOf(path.Dir(name)), test: strings.HasSuffix(name, "_test.go"), ast: parsed}
		f.kind = rooms[f.room]
		folders[path.Dir(name)] = append(folders[path.Dir(name)], f)
		return nil
	})
	if err != nil {
		return nil, err
	}

	at := func(f file, pos token.Pos, rule, text string, args ...any) {
		r.violations = append(r.violations, violation{rule, f.name, fset.Position(pos).Line, fmt.Sprintf(text, args...)})
	}
	used := map[string]bool{}
	filled := map[string]bool{}
	for dir, files := range folders {
		r.packages++
		r.files += len(files)
		if files[0].room == "" {
			r.violations = append(r.violations, violation{ruleRoom, dir, 0, "this package lies in no room that house.go lists"})
			continue
		}
		for _, f := range files {
			if !f.test {
				filled[f.room] = true
			}
			r.imports += len(f.ast.Imports)
			f.imports(at, used)
			f.clock(at)
			f.inits(at)
		}
		state(fset, files, at)
	}
	for room := range rooms {
		if !filled[room] {
			r.violations = append(r.violations, violation{ruleEmpty, room, 0, "house.go lists this room and it has no Go files"})
		}
	}
	for _, d := range drivers {
		if !used[d.path] {
			r.violations = append(r.violations, violation{ruleIdle, d.path, 0, "house.go lists this driver and no room that may import it does"})
		}
	}
	slices.SortFunc(r.violations, func(a, b violation) int { return strings.Compare(a.String(), b.String()) })
	return r, nil
}

// roomOf returns the room that a folder belongs to, "" when to none.
func roomOf(dir string) string {
	for ; dir != "."; dir = path.Dir(dir) {
		if _, listed := rooms[dir]; listed {
			return dir
		}
	}
	return ""
}

type reporter = func(f file, pos token.Pos, rule, text string, args ...any)

func within(prefix, importPath string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

// imports applies the rules about what the file imports and marks drivers seen at home.
func (f file) imports(at reporter, used map[string]bool) {
	for _, spec := range f.ast.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the compiler says so
		}
		if strings.HasPrefix(imported, module) || strings.HasPrefix(imported, protoModule) {
			to, kind := "", contracts
			if strings.HasPrefix(imported, module) {
				to = roomOf(strings.TrimPrefix(imported, module))
				kind = rooms[to]
			}
			allowed := slices.Contains(mayImport[f.kind], kind) || f.test && slices.Contains(inTests[f.kind], kind)
			if to != f.room && !allowed {
				at(f, spec.Pos(), ruleImport, "%s (%s) may not import %s (%s)", f.room, f.kind, imported, kind)
			}
		}
		for _, d := range drivers {
			if !within(d.path, imported) {
				continue
			}
			home := slices.Contains(d.in, f.room)
			used[d.path] = used[d.path] || home
			if !home && !(f.test && slices.Contains(d.tests, f.room)) {
				at(f, spec.Pos(), ruleDriver, "%s belongs to %s, not to %s", d.path, strings.Join(d.in, ", "), f.room)
			}
			break // the first, most exact, entry decides
		}
		kitForTests := f.room == "kit/estest" || f.room == "kit/runtest" || f.kind == harness
		if slices.Contains(testOnly, imported) && !f.test && !kitForTests {
			at(f, spec.Pos(), ruleTestOnly, "%s is for tests", imported)
		}
	}
}

// clock finds uses of the machine's time.
func (f file) clock(at reporter) {
	if f.test || slices.Contains(clocks, f.room) {
		return
	}
	name := ""
	for _, spec := range f.ast.Imports {
		if spec.Path.Value == `"time"` {
			name = "time"
			if spec.Name != nil {
				name = spec.Name.Name
			}
		}
	}
	if name == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := selector.X.(*ast.Ident)
		if ok && pkg.Name == name && slices.Contains([]string{"Now", "Since", "Until"}, selector.Sel.Name) {
			at(f, n.Pos(), ruleClock, "time.%s: take a clock instead; only %s may read the time", selector.Sel.Name, strings.Join(clocks, " and "))
		}
		return true
	})
}

func (f file) inits(at reporter) {
	for _, decl := range f.ast.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			at(f, fn.Pos(), ruleInit, "no init functions: construct it where it is used")
		}
	}
}

// state finds changes of package variables: assignments to them or into them,
// taking their address, deleting from them, and variables that are state by
// their type. It type-checks the folder with empty imports, which is enough to
// know which name means which variable.
func state(fset *token.FileSet, files []file, at reporter) {
	byPackage := map[string][]file{}
	for _, f := range files {
		byPackage[f.ast.Name.Name] = append(byPackage[f.ast.Name.Name], f)
	}
	for name, files := range byPackage {
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
		var parsed []*ast.File
		for _, f := range files {
			parsed = append(parsed, f.ast)
		}
		config := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
		pkg, _ := config.Check(name, fset, parsed, info) // errors are expected: imports are empty
		changed := func(f file, e ast.Expr) {
			if id := rootOf(e); id != nil {
				if v, ok := info.Uses[id].(*types.Var); ok && v.Parent() == pkg.Scope() {
					at(f, e.Pos(), ruleState, "package variable %s is changed: make it a field of what owns it", id.Name)
				}
			}
		}
		for _, f := range files {
			ast.Inspect(f.ast, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.AssignStmt:
					for _, e := range n.Lhs {
						changed(f, e)
					}
				case *ast.IncDecStmt:
					changed(f, n.X)
				case *ast.RangeStmt:
					if n.Tok == token.ASSIGN {
						changed(f, n.Key)
						changed(f, n.Value)
					}
				case *ast.UnaryExpr:
					if n.Op == token.AND && !f.test {
						changed(f, n.X)
					}
				case *ast.CallExpr:
					if fn, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && (fn.Name == "delete" || fn.Name == "clear") {
						changed(f, n.Args[0])
					}
				}
				return true
			})
			for _, decl := range f.ast.Decls {
				stateful(f, decl, at)
			}
		}
	}
}

// stateful finds package variables whose type is there to be changed.
func stateful(f file, decl ast.Decl, at reporter) {
	vars, ok := decl.(*ast.GenDecl)
	if !ok || vars.Tok != token.VAR || f.test {
		return
	}
	for _, spec := range vars.Specs {
		spec := spec.(*ast.ValueSpec)
		ast.Inspect(spec, func(n ast.Node) bool {
			if _, isFunc := n.(*ast.FuncLit); isFunc {
				return false
			}
			if s, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := s.X.(*ast.Ident); ok && (pkg.Name == "sync" && s.Sel.Name != "OnceValue" && s.Sel.Name != "OnceValues" || pkg.Name == "atomic") {
					at(f, n.Pos(), ruleState, "package variable of type %s.%s is state: make it a field of what owns it", pkg.Name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

// rootOf returns the variable that an assignable expression changes.
func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// emptyImporter gives every import an empty package.
type emptyImporter struct{}

func (emptyImporter) Import(importPath string) (*types.Package, error) {
	name := path.Base(importPath)
	p := types.NewPackage(importPath, name)
	p.MarkComplete()
	return p, nil
}
