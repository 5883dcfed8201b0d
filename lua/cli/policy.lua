--- sallyport policy list, show, put, edit, test, history, rollback
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"

local SOURCE_MAX = 256 << 10   -- the largest policy is a tenth of it

local function names()
  local list = {}
  for i, p in ipairs(require("cli.policy_versions").list()) do list[i] = p.name end
  return list
end

local function need(name)
  local all = names()
  for _, n in ipairs(all) do
    if n == name then return name end
  end
  local near = records.nearest(name, all)
  report.fail(("there is no policy '%s'"):format(report.clean(name):sub(1, 40)),
    near and ("did you mean %s?"):format(near) or "sallyport policy list")
end

local function list(_, _, ctx)
  db.open(ctx)
  local rows, out = {}, report.array()
  for i, p in ipairs(require("cli.policy_versions").list()) do
    rows[i] = { p.name, p.kind or "refused", p.version or "", p.status, p.title or p.why or "" }
    out[i] = { name = p.name, kind = p.kind, version = p.version, status = p.status, title = p.title, why = p.why }
  end
  ctx.out(ctx.json and report.json(out) or report.columns({ "POLICY", "KIND", "VERSION", "STATUS", "TITLE" }, rows))
  return 0
end

--- A version as a number; nil for the one in force.
local function version_of(text)
  if not text then return nil end
  local n = text:find("^%d+$") and math.tointeger(tonumber(text))
  if not n then report.usage("a version is a number, as in `policy history`; 0 is the built-in one") end
  return n
end

local function show(args, _, ctx)
  db.open(ctx)
  local text, why = require("policy_store").source(need(args[1]), version_of(args[2]))
  if not text then report.fail(("%s cannot be shown: %s"):format(args[1], tostring(why))) end
  ctx.out(text)
  return 0
end

local function read(ctx, path)
  local text, why = ctx.host.read_file(path, SOURCE_MAX)
  if not text then
    report.fail(("cannot read %s: %s"):format(report.clean(path), why == "absent" and "there is no such file" or why))
  end
  local name, bad = records.name((path:match("([^/]+)$") or path):gsub("%.lua$", ""))
  if not name then report.usage(("the file is named after its policy, NAME.lua: %s"):format(bad)) end
  return name, text
end

--- The compiler names the policy; the reader knows the file.
local function in_file(why, name, path)
  local from = "policies/" .. name .. ".lua"
  local at, to = tostring(why):find(from, 1, true)
  return at and why:sub(1, at - 1) .. path .. why:sub(to + 1) or path .. ": " .. tostring(why)
end

local function put(args, opt, ctx)
  local note, bad = records.text(opt.note or "put")
  if not note then report.usage("--note: " .. bad) end
  db.open(ctx)
  local name, text = read(ctx, args[1])
  local version, why = require("cli.policy_versions").put(name, text, note)
  if not version then
    report.fail(in_file(why, name, args[1]), "nothing was changed; what served before goes on serving")
  end
  ctx.note(("%s is at version %d, from the next request."):format(name, version))
  report.answer(ctx, { name = name, version = version })
  return 0
end

local function again(ctx)
  if not ctx.host.isatty(0) then return false end
  ctx.note("Edit it again? [Y/n]")
  local answer = io.stdin:read("l")
  return answer ~= nil and not answer:lower():find("^%s*n")
end

local function quoted(text) return "'" .. text:gsub("'", [['\'']]) .. "'" end

local function edit(args, _, ctx)
  db.open(ctx)
  local host = ctx.host
  local name = need(args[1])
  local before = require("policy_store").source(name)
  local dir = ctx.home .. "/edit"
  host.mkdir(dir, tonumber("700", 8))
  local path = ("%s/%s.lua"):format(dir, name)
  local ok, why = require("cli.files").write(host, path, before, tonumber("600", 8))
  if not ok then report.fail(("cannot write %s: %s"):format(path, why)) end
  while true do
    local done, _, status = os.execute(('eval "${VISUAL:-${EDITOR:-vi}} %s"'):format(quoted(path):gsub('[$`"\\]', "\\%0")))
    if not done then
      report.fail(("the editor ended with %s; nothing was changed"):format(tostring(status)),
        "it is $VISUAL or $EDITOR, else vi")
    end
    local text, bad = host.read_file(path, SOURCE_MAX)
    if not text then report.fail(("cannot read %s: %s"):format(path, bad)) end
    if text == before then
      ctx.note("Nothing was changed.")
      report.answer(ctx, { name = name })
      os.remove(path)
      return 0
    end
    local version
    version, why = require("cli.policy_versions").put(name, text, "edit")
    if version then
      os.remove(path)
      report.answer(ctx, { name = name, version = version })
      ctx.note(("%s is at version %d, from the next request; sallyport policy rollback %s takes it back.")
        :format(name, version, name))
      return 0
    end
    ctx.note("sallyport: " .. in_file(why, name, path))
    if not again(ctx) then
      report.fail("refused; what served before goes on serving",
        ("your text is in %s: mend it, then sallyport policy put %s"):format(path, path))
    end
  end
end

local function test(args, _, ctx)
  db.open(ctx)
  local list, failed, results = args, 0, report.array()
  if #list == 0 then list = names() end
  for _, what in ipairs(list) do
    local name, text, count, ok, why
    if what:find("/", 1, true) or what:find("%.lua$") then
      name, text = read(ctx, what)
    else
      name = need(what)
      text, why = require("policy_store").source(name)
    end
    if text then ok, count = require("cli.policy_examples").test(name, text) end
    results[#results + 1] = { name = name, ok = ok and true or false, examples = ok and count or nil,
      error = not ok and tostring(text and count or why) or nil }
    if ok then
      ctx.out(("ok      %s  %d example%s\n"):format(name, count, count == 1 and "" or "s"))
    else
      failed = failed + 1
      ctx.out(("failed  %s  %s\n"):format(name, report.clean(text
        and in_file(count, name, text and what:find("/", 1, true) and what
        or "policies/" .. name .. ".lua") or tostring(why))))
    end
  end
  report.answer(ctx, results)
  return failed == 0 and 0 or 1
end

local function history(args, _, ctx)
  db.open(ctx)
  local rows, out = {}, report.array()
  local versions, why = require("cli.policy_versions").history(need(args[1]))
  if not versions then report.fail(why) end
  for i, v in ipairs(versions) do
    rows[i] = { v.version, v.active and "in force" or "", report.time(v.saved_at) or "built in", v.note or "" }
    out[i] = { version = v.version, active = v.active or false, saved_at = report.time(v.saved_at), note = v.note }
  end
  ctx.out(ctx.json and report.json(out) or report.columns({ "VERSION", "", "SAVED", "NOTE" }, rows))
  return 0
end

local function rollback(args, _, ctx)
  db.open(ctx)
  local version, why = require("cli.policy_versions").rollback(need(args[1]), version_of(args[2]))
  if not version then
    report.fail(("%s was not rolled back: %s"):format(args[1], tostring(why)),
      ("sallyport policy history %s"):format(args[1]))
  end
  ctx.note(version == 0 and ("%s is the built-in one again, from the next request."):format(args[1])
    or ("%s is at version %d, from the next request."):format(args[1], version))
  report.answer(ctx, { name = args[1], version = version })
  return 0
end

return {
  { words = "policy list", max = 0, summary = "policies, their versions, and which were edited", help = [[
Lists the policies: credential types, the matching rules, traffic rules. What nobody edited follows the
binary; what was edited stays, and the list says when its default has changed since.

example:
  sallyport policy list
]], run = list },
  { words = "policy show", args = "NAME [VERSION]", min = 1, max = 2, summary = "its source", help = [[
Prints a policy's source: its first lines say which fields a credential of that type has.

examples:
  sallyport policy show api_key
  sallyport policy show match 0
]], run = show },
  { words = "policy put", args = "FILE", min = 1, max = 1, summary = "keep a policy; its examples must pass",
    options = { { name = "note", arg = "TEXT", help = "why, for the history" } }, help = [[
Keeps the file as the policy of its name (NAME.lua) and puts it in force at the next request of every worker.
A script that does not compile, has a key that is not known, or fails one of its own examples is refused with
file, line and reason; what served before goes on serving.

examples:
  sallyport policy show api_key > acme.lua   # a type of yours is a copy
  sed -i 's/"api_key"/"acme"/' acme.lua      # its name is the file's
  sallyport policy put acme.lua
  sallyport policy put bearer.lua --note "prefix for the old gateway"
]], run = put },
  { words = "policy edit", args = "NAME", min = 1, max = 1, summary = "change it in $EDITOR", help = [[
Opens the policy in $VISUAL or $EDITOR, and then does what `policy put` does. What is refused stays in a file,
so that no work is lost.

example:
  EDITOR=nano sallyport policy edit match
]], run = edit },
  { words = "policy test", args = "[NAME|FILE …]", summary = "run the examples; change nothing", help = [[
Compiles policies and runs their examples: those named, files that are not kept yet, or all.

examples:
  sallyport policy test
  sallyport policy test ./acme.lua
]], run = test },
  { words = "policy history", args = "NAME", min = 1, max = 1, summary = "every version that was kept", help = [[
Lists the kept versions; 0 is the built-in one.

example:
  sallyport policy history match
]], run = history },
  { words = "policy rollback", args = "NAME [VERSION]", min = 1, max = 2,
    summary = "the version before, or the named one", help = [[
Puts an older version in force: the one before, or the one named; 0 is the built-in one.

examples:
  sallyport policy rollback match
  sallyport policy rollback bearer 0
]], run = rollback },
}
