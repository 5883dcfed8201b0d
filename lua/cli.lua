--- The command line: finds the command, reads its options, prints what went wrong.
-- A command is data and one function: { words, args, summary, help, options, run }. Its module is loaded when it
-- is called. A message repeats words and names of options, never a value: one may be a secret in the wrong place.
local page = require "cli.page"
local report = require "cli.report"
local M = {}

-- The overview's order, and where each first word is kept.
local families = {
  { "init", "cli.init" }, { "serve", "cli.serve" }, { "credential", "cli.credential" }, { "agent", "cli.agent" },
  { "connect", "cli.connect" }, { "disconnect", "cli.connect" }, { "mcp", "cli.mcp" }, { "import", "cli.import" },
  { "env", "cli.env" }, { "run", "cli.run" }, { "explain", "cli.explain" }, { "log", "cli.log" }, { "record", "cli.record" }, { "status", "cli.status" }, { "top", "cli.top" }, { "bundle", "cli.bundle" },
  { "domain", "cli.bundle" }, { "rule", "cli.rule" }, { "approval", "cli.approval" }, { "proposal", "cli.proposal" }, { "seal", "cli.seal" }, { "gateway", "cli.door" }, { "tenant", "cli.door" }, { "user", "cli.door" }, { "role", "cli.door" },
  { "client", "cli.door" }, { "key", "cli.door" }, { "connection", "cli.door" }, { "policy", "cli.policy" }, { "set", "cli.set" }, { "webhook", "cli.webhook" }, { "ca", "cli.ca" },
  { "admin", "cli.admin" }, { "token", "cli.token" }, { "doctor", "cli.doctor" }, { "backup", "cli.backup" }, { "restore", "cli.backup" }, { "store", "cli.store" },
  { "service", "cli.service" }, { "nft", "cli.nft" }, { "completion", "cli.shell" }, { "man", "cli.shell" }, { "version", "cli.version" }, { "lua", "cli.script" },
}

-- What people type elsewhere for the same thing.
local other_words = {
  start = "serve", proxy = "serve", logs = "log", config = "set", settings = "set",
  login = "connect", authorize = "connect", logout = "disconnect", credentials = "credential", cred = "credential", secret = "credential", agents = "agent", bundles = "bundle",
  domains = "domain", policies = "policy", approvals = "approval", approve = "approval", tenants = "tenant", users = "user", roles = "role", gateways = "gateway", clients = "client", keys = "key", connections = "connection", why = "explain", check = "doctor", stats = "status", systemd = "service", unit = "service", cert = "ca", export = "env",
  ls = "list", create = "add", new = "add", delete = "remove", rm = "remove", del = "remove", get = "show",
  cat = "show", update = "set", edit = "set", revert = "rollback",
}

local global_options = {
  { name = "home", arg = "DIR", help = "the data directory; else SALLYPORT_HOME, else ~/.sallyport" },
  { name = "json", help = "the answer as JSON: sallyport help json" },
  { name = "help", help = "this text" },
}

local function commands_of(first)
  local list = {}
  for _, f in ipairs(families) do
    if f[1] == first then
      for _, c in ipairs(require(f[2])) do
        if c.words == first or c.words:sub(1, #first + 1) == first .. " " then list[#list + 1] = c end
      end
    end
  end
  return list
end

M.commands_of, M.global_options = commands_of, global_options

--- The first words of all commands, in the overview's order.
function M.first_words()
  local list = {}
  for i, f in ipairs(families) do list[i] = f[1] end
  return list
end

-- ---- help ----------------------------------------------------------------------------------------

local function usage_line(c)
  return ("sallyport %s%s"):format(c.words, c.args and " " .. c.args or "")
end

local function option_lines(options)
  local rows = {}
  for i, o in ipairs(options) do
    rows[i] = { "--" .. o.name .. (o.bare and "[=" .. o.arg .. "]" or o.arg and " " .. o.arg or "") .. (o.many and " …" or ""), o.help }
  end
  return page.pairs(rows, 30)
end

function M.help_for(c)
  local help = type(c.help) == "function" and c.help() or c.help
  local parts = { page.command("usage: " .. usage_line(c), ""), "\n\n", page.text(help or c.summary .. "\n") }
  if c.options and #c.options > 0 then parts[#parts + 1] = "\noptions:\n" .. option_lines(c.options) .. "\n" end
  return table.concat(parts)
end

function M.help_family(list)
  local rows, first = {}, list[1].words:match("^%S+")
  for i, c in ipairs(list) do rows[i] = { usage_line(c), c.summary } end
  return page.pairs(rows, 44) .. ("\n\nsallyport %s COMMAND --help says more about each, with examples.\n"):format(first)
end

function M.overview()
  local rows = {}
  for _, f in ipairs(families) do
    local list = commands_of(f[1])
    if #list == 1 then
      rows[#rows + 1] = { f[1], list[1].summary }
    else
      local verbs = {}
      for i, c in ipairs(list) do verbs[i] = c.words:match(" (.+)$") end
      rows[#rows + 1] = { f[1], table.concat(verbs, ", ") }
    end
  end
  local help, topics = require "cli.help", {}
  for i, name in ipairs(help.topics()) do topics[i] = { name, help.title(name) } end
  return [[
usage: sallyport [--home DIR] COMMAND …

Sallyport lets an agent's requests carry credentials that the agent never holds.

]] .. page.pairs(rows, 11) .. [[


A first credential:
  sallyport credential add gh --preset github
  sallyport agent add claude
  eval "$(sallyport env --agent claude)"
  curl https://api.github.com/user

sallyport COMMAND --help says more about each, with examples.
sallyport help TOPIC is a page of the manual:

]] .. page.pairs(topics, 14) .. "\n"
end

-- ---- options -------------------------------------------------------------------------------------

local function find_option(list, name)
  for _, o in ipairs(list) do
    if o.name == name then return o end
  end
end

-- -H LINE, -HLINE: an option that has one letter, too, for those who know it from curl.
local function find_short(list, text)
  for _, o in ipairs(list) do
    if o.short and text:sub(1, 2) == "-" .. o.short then return o end
  end
end

local function unknown_option(name, command, options)
  local names = {}
  for _, o in ipairs(options) do names[#names + 1] = o.name end
  local hint = ("sallyport %s --help lists them"):format(command.words)
  local meant = command.means and command.means[name]
  local near = require("records").nearest(name, names)
  if meant then
    hint = meant
  elseif near then
    hint = ("did you mean --%s?"):format(near)
  elseif command.fields and name:find("^[%a_][%w_]*$") then
    hint = ("a field of the type is written without dashes: %s=…"):format(name)
  end
  report.usage(("unknown option --%s"):format(report.clean(name)), hint)
end

local function missing_value(o, command)
  local text = ("--%s needs a value: --%s %s"):format(o.name, o.name, o.arg)
  report.usage(text, ("sallyport %s --help shows examples"):format(command.words))
end

--- Splits arguments into positionals and options. A list option may come again or hold commas.
function M.parse(args, command)
  local options = {}
  for _, o in ipairs(command.options or {}) do options[#options + 1] = o end
  for _, o in ipairs(command.hidden or {}) do options[#options + 1] = o end
  for _, o in ipairs(global_options) do options[#options + 1] = o end
  local opt, rest, i = {}, {}, 1
  while i <= #args do
    local a = args[i]
    local short = find_short(options, a)
    if short then
      a = "--" .. short.name .. (#a > 2 and "=" .. a:sub(3) or "")
    end
    if a == "--" then
      table.move(args, i + 1, #args, #rest + 1, rest)
      break
    elseif a == "-h" then
      opt.help = true
    elseif a:sub(1, 2) == "--" then
      local name, value = a:match("^%-%-([^=]+)=(.*)$")
      name = name or a:sub(3)
      local o = find_option(options, name)
      if not o then unknown_option(name, command, options) end
      local key = name:gsub("-", "_")
      if not o.arg or o.bare and not value then
        if value then report.usage(("--%s takes no value"):format(name)) end
        opt[key] = true
      else
        if not value then
          i = i + 1
          value = args[i]
          if not value or value:sub(1, 2) == "--" then missing_value(o, command) end
        end
        if value == "" and not o.empty then missing_value(o, command) end
        if not o.many then
          if opt[key] ~= nil then report.usage(("--%s is given twice"):format(name)) end
          opt[key] = value
        else
          opt[key] = opt[key] or {}
          if o.whole then
            table.insert(opt[key], value)
          else
            for item in value:gmatch("[^,]+") do table.insert(opt[key], item) end
          end
        end
      end
    elseif a:sub(1, 1) == "-" and #a > 1 then
      report.usage("options have two dashes and a whole word",
        ("sallyport %s --help lists them"):format(command.words))
    else
      rest[#rest + 1] = a
      if command.raw then
        table.move(args, i + 1, #args, #rest + 1, rest)
        break
      end
    end
    i = i + 1
  end
  return rest, opt
end

-- ---- dispatch ------------------------------------------------------------------------------------

local function meant(word, words)
  local other = other_words[word]
  if other then
    for _, w in ipairs(words) do
      if w == other then return other end
    end
  end
  return require("records").nearest(word, words)
end

--- --home, --json and --help may stand before the command as well.
local function take_globals(args, ctx)
  local i = 1
  while args[i] and args[i]:sub(1, 1) == "-" do
    local a = args[i]
    if a == "--home" then
      i = i + 1
      if not args[i] then report.usage("--home needs a value: --home DIR") end
      ctx.home = args[i]
    elseif a:sub(1, 7) == "--home=" then
      ctx.home = a:sub(8)
    elseif a == "--json" then
      ctx.json = true
    elseif a == "--help" or a == "-h" then
      ctx.help = true
    elseif a == "--version" then
      return { "version" }
    else
      report.usage("an option stands before the command: " .. report.clean((a:gsub("=.*", ""))),
        "sallyport COMMAND --option …; only --home, --json and --help may come first")
    end
    i = i + 1
  end
  return table.move(args, i, #args, 1, {})
end

local function find_verb(list, verb)
  for _, c in ipairs(list) do
    if c.words:match(" (.+)$") == verb then return c end
  end
end

--- The command that the words name, and the arguments behind them.
local function find_command(args, ctx)
  local first = args[1]
  local list = commands_of(first)
  if #list == 0 then
    local near, help = meant(first, M.first_words()), require "cli.help"
    local topic = (ctx.help or not near) and require("records").nearest(first, help.topics())
    report.usage(("there is no command%s '%s'"):format(ctx.help and " or topic" or "", report.clean(first):sub(1, 40)),
      topic and ("did you mean `sallyport help %s`?"):format(topic)
      or near and ("did you mean `sallyport %s`?"):format(near) or "sallyport --help lists the commands")
  end
  if #list == 1 and list[1].words == first then
    return list[1], table.move(args, 2, #args, 1, {})
  end
  local second = args[2]
  if not second or second == "--help" or second == "-h" or ctx.help then
    return nil, list, not (second or ctx.help)
  end
  if second == "help" and not find_verb(list, "help") then      -- as if it stood before
    ctx.help = true
    table.remove(args, 2)
    if args[#args] == "--json" then ctx.json, args[#args] = true, nil end
    second = args[2]
    if not second then return nil, list, false end
  end
  local verbs = {}
  for i, c in ipairs(list) do
    verbs[i] = c.words:match(" (.+)$")
    if verbs[i] == second then return c, table.move(args, 3, #args, 1, {}) end
  end
  local near = meant(second, verbs)
  report.usage(("`%s` has no command '%s'"):format(first, report.clean(second):sub(1, 40)),
    near and ("did you mean `sallyport %s %s`?"):format(first, near)
      or ("it has %s"):format(table.concat(verbs, ", ")))
end

local function check_count(rest, command, opt)
  if #rest < (command.min or 0) then
    report.usage(("`%s` needs %s"):format(command.words, command.args), "usage: " .. usage_line(command))
  end
  if command.max and #rest > command.max then
    local hint = "usage: " .. usage_line(command)
    for _, o in ipairs(command.options or {}) do
      if o.bare and opt[o.name] then hint = ("a value of --%s is written with '=': --%s=%s"):format(o.name, o.name, o.arg) end
    end
    report.usage(("`%s` has an argument too many"):format(command.words), hint)
  end
end

--- The data directory as an absolute path; nil where nothing names one.
local function home_of(host, named)
  local home = named or host.getenv("SALLYPORT_HOME")
  if not home or home == "" then
    local user = host.getenv("HOME")
    if not user or user == "" then return nil end
    home = user .. "/.sallyport"
  end
  if home:sub(1, 1) ~= "/" then home = (host.realpath(".") or ".") .. "/" .. home end
  home = #home > 1 and (home:gsub("/+$", "")) or home
  -- systemd's DynamicUser and moved homes are links; what is checked and used is where they lead.
  local is = host.stat(home)
  return is and is.type == "link" and host.realpath(home) or home
end

-- With --json: one object or list, whatever the command. What it prints for people is an object's `text`.
local function answered(command, rest, opt, ctx)
  local out, pieces, several = ctx.out, {}, false
  ctx.columns, ctx.colour = false, false      -- a text in an object is as it is in a file
  ctx.out = function(s) pieces[#pieces + 1] = s end
  ctx.emit = function(value)      -- what cannot wait for the end: then it is an object a line
    several = true
    out(report.json_event(value))
    io.stdout:flush()
  end
  local code = command.run(rest, opt, ctx) or 0
  local text = table.concat(pieces)
  local form = several and report.json_event or report.json
  if ctx.answer then
    out(form(ctx.answer))
  elseif require("json").decode(text) ~= nil then
    out(text)
  else
    out(form { text = text })
  end
  return code
end

-- A page of help; with --json it is a text like any other.
local function help_page(text, ctx)
  ctx.out(ctx.json and report.json { text = text } or page.narrow(text))
  return 0
end

local PASSWD_MAX = 1 << 20

-- What this command changes is logged under its name and that of whoever typed it.
local function note_changes(command, ctx)
  local host, changes = ctx.host, require "changes"
  local uid, name = host.uid(), nil
  for line in (host.read_file("/etc/passwd", PASSWD_MAX) or ""):gmatch("[^\n]+") do
    local user, number = line:match("^([^:]*):[^:]*:(%d+):")
    if tonumber(number) == uid then name = name or user end
  end
  local other, terminal = host.getenv("SUDO_USER"), host.realpath("/proc/self/fd/0") or ""
  changes.process = { by = ("%s%s"):format(name or "uid " .. uid, other and " for " .. other or ""), door = "command line", command = command.words,
    from = terminal:find("^/dev/[pt]t") and terminal or nil, client = (host.getenv("SSH_CONNECTION") or ""):match("^%S+") }
  function changes.sink(record)
    local ok, why = require("cli.log_place").add({ home = require("store").home, host = host }, record)
    if not ok then ctx.note(("note: this change is not in the log: %s"):format(tostring(why))) end
  end
end

-- Root's commands on another's data directory go on as its owner: what they write is his, and what the store makes them read
-- is read with his rights.
local function act_as_owner(ctx, command)
  local is = ctx.host.stat(ctx.home, true)
  if not is or is.type ~= "dir" or is.uid == 0 or ctx.host.uid() ~= 0 or command.as_root then return end
  local ok, why = ctx.host.become(is.uid, is.gid)
  if not ok then
    report.fail(("cannot act as user %d, whose data directory this is: %s"):format(is.uid, why), "run this command as that user")
  end
end

local function run(args, ctx)
  args = take_globals(args, ctx)
  if args[1] == "help" then
    ctx.help = true
    table.remove(args, 1)
    if args[#args] == "--json" then ctx.json, args[#args] = true, nil end
    local topic = args[1] and not args[2] and require("cli.help").text(args[1])
    if topic and ctx.json then return help_page(topic, ctx) end
    if topic then require("cli.help").show(ctx, args[1]); return 0 end
  end
  if not args[1] then
    if ctx.help then return help_page(M.overview(), ctx) end
    if ctx.json then report.usage("no command is named", "sallyport --help lists them") end
    ctx.note(page.narrow(M.overview()))
    return 2
  end
  local command, rest, no_verb = find_command(args, ctx)
  if not command then
    if not no_verb then return help_page(M.help_family(rest), ctx) end
    if ctx.json then report.usage(("`%s` needs a command"):format(args[1]), ("sallyport %s --help lists them"):format(args[1])) end
    ctx.note(page.narrow(M.help_family(rest)))
    return 2
  end
  if ctx.help then return help_page(M.help_for(command), ctx) end
  local opt
  rest, opt = M.parse(rest, command)
  ctx.home = home_of(ctx.host, opt.home or ctx.home)
  ctx.json = ctx.json or opt.json
  if opt.help then return help_page(command.help_of and command.help_of(opt, ctx) or M.help_for(command), ctx) end
  check_count(rest, command, opt)
  if not ctx.home and not command.homeless then
    report.usage("HOME is not set, so the data directory must be named", "--home DIR or SALLYPORT_HOME")
  end
  note_changes(command, ctx)
  if ctx.page then require("changes").process.door = "page" end
  for name, value in pairs(ctx.asked or {}) do require("changes").process[name] = value end
  if ctx.home and not command.homeless then act_as_owner(ctx, command) end
  if ctx.json and not command.raw and not command.lines then return answered(command, rest, opt, ctx) end
  return command.run(rest, opt, ctx) or 0
end

-- A bug of ours is told with its place; a failure that a command meant to end with is told as it is.
local function caught(e)
  if type(e) == "table" and e.exit then return e end
  return { exit = 1, message = "this is a fault in sallyport: " .. tostring(e), hint = debug.traceback("", 2) }
end

--- main(args) -> exit code: 0 done, 1 failed, 2 usage. Tests pass a context with their own `out` and `note`.
function M.main(args, given)
  local ctx = given or {}
  ctx.host = ctx.host or require "host"
  if not given then ctx.host.harden() end
  ctx.host.read_file, ctx.host.getenv = require("cli.files").read, os.getenv      -- what Lua does as well
  local terminal = require "cli.terminal"
  -- What commands print quotes files, servers and agents: none of them may steer the terminal.
  local screen = not given and ctx.host.isatty(1)
  ctx.out = ctx.out or function(s) io.stdout:write(screen and terminal.safe(s) or s) end
  ctx.note = ctx.note or function(s)
    s = s:gsub("^note:", function(word) return terminal.paint(ctx, "warn", word, 2) end)
    io.stderr:write((terminal.safe(s:sub(-1) == "\n" and s or s .. "\n")))
  end
  page.WIDTH = given and page.WIDTH or terminal.help_width(ctx)
  local asked = {}      -- a command line that cannot be read may still have asked for JSON
  for _, a in ipairs(args) do asked[a] = true end
  local out = ctx.out
  local ok, result = xpcall(run, caught, args, ctx)
  if ok then return result end
  if ctx.json or asked["--json"] then out(report.json { error = { message = result.message, hint = result.hint } }) end
  ctx.note(terminal.paint(ctx, "bad", "sallyport:", 2) .. " " .. result.message)
  if result.hint then ctx.note("  " .. result.hint) end
  return result.exit
end

return M
