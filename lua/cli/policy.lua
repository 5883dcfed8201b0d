--- sallyport policy list, show, new, try, put, edit, test, history, diff, rollback, use, remove, help
local db = require "cli.db"
local policy = require "policy"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"

local SOURCE_MAX = 256 << 10   -- the largest policy is a tenth of it

local function plain_pattern(text) return (text:gsub("%W", "%%%0")) end

local function need(name)
  local all = require("cli.policy_versions").names()
  for _, n in ipairs(all) do
    if n == name then return name end
  end
  local near = records.nearest(name, all)
  report.fail(("there is no policy '%s'"):format(report.clean(name):sub(1, 40)),
    near and ("did you mean %s?"):format(near) or "sallyport policy list")
end

--- Who uses which policy: name -> { credentials, rules = { { name, bundle } … }, bundles }, each list in order.
local function uses()
  local out = {}
  local function of(name)
    out[name] = out[name] or { credentials = report.array(), rules = report.array(), bundles = report.array(), seen = {} }
    return out[name]
  end
  local function in_bundle(use, bundle)
    if not use.seen[bundle] then
      use.seen[bundle] = true
      use.bundles[#use.bundles + 1] = bundle
    end
  end
  for key, rec in db.each("credential", "") do
    if rec and rec.type then
      local use = of(rec.type)
      use.credentials[#use.credentials + 1] = key
      for _, b in ipairs(rec.bundles or {}) do in_bundle(use, b) end
    end
  end
  for key, rec in db.each("bundle", "") do
    for _, rule in ipairs(rec and not key:find("/", 1, true) and rec.rules or {}) do
      local use = of(rule.type)
      use.rules[#use.rules + 1] = { name = rule.name, bundle = key }
      in_bundle(use, key)
    end
  end
  for _, use in pairs(out) do
    table.sort(use.bundles)
    use.seen = nil
  end
  return out
end

-- "gh, jira (default)", "office, by night (default)"
local function used_by(use)
  if not use then return "" end
  local names = {}
  for i, name in ipairs(use.credentials) do names[i] = name end
  for _, rule in ipairs(use.rules) do names[#names + 1] = "rule " .. rule.name end
  return report.several(names) .. (use.bundles[1] and (" (%s)"):format(report.several(use.bundles)) or "")
end

local function list(_, _, ctx)
  db.open(ctx)
  local rows, out, used = {}, report.array(), uses()
  for i, p in ipairs(require("cli.policy_versions").list()) do
    local use = used[p.name]
    rows[i] = { p.name, p.kind or "refused", p.version or "", p.status, used_by(use), p.title or p.why or "" }
    out[i] = { name = p.name, kind = p.kind, version = p.version, status = p.status, title = p.title, why = p.why,
      credentials = use and use.credentials or report.array(), rules = use and use.rules or report.array(), bundles = use and use.bundles or report.array() }
  end
  ctx.out(ctx.json and report.json(out) or terminal.columns(ctx, { "POLICY", "KIND", "VERSION", "STATUS", "USED BY", "TITLE" }, rows, 4))
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
  local built_in = not ctx.host.stat(ctx.home or "") and not args[2] and require("sandbox").default_source(args[1])
  if built_in then
    ctx.out(built_in)
    return 0
  end
  db.open(ctx)
  local text, why = require("policy_store").source(need(args[1]), version_of(args[2]))
  if not text then report.fail(("%s cannot be shown: %s"):format(args[1], tostring(why))) end
  ctx.out(text)
  return 0
end

-- A whole file; what is wrong with it as a sentence.
local function contents(ctx, path, max)
  local text, why = ctx.host.read_file(path, max)
  if text then return text end
  local said = { absent = "there is no such file", too_large = ("it is larger than %d KiB"):format(max >> 10) }
  report.fail(("cannot read %s: %s"):format(report.clean(path), said[why] or why))
end

local function read(ctx, path)
  if ctx.page and path ~= ctx.draft then report.fail("no file of this machine is opened from here", "name a policy, or send its text") end
  -- Where an agent can write, a pipe may stand under the name: nobody would write into it, and we would wait.
  local is = ctx.host.stat(ctx.host.realpath(path) or path)
  if is and is.type ~= "file" then report.fail(("cannot read %s: it is no plain file"):format(report.clean(path))) end
  local text = contents(ctx, path, SOURCE_MAX)
  local name, bad = records.name((path:match("([^/]+)$") or path):gsub("%.lua$", ""))
  if not name then report.usage(("the file is named after its policy, NAME.lua: %s"):format(bad)) end
  return name, text
end

--- The compiler names the policy; the reader knows the file.
local function in_file(why, name, path)
  local from = "policies/" .. name .. ".lua"
  local text, n = tostring(why):gsub(from:gsub("%W", "%%%0"), (path:gsub("%%", "%%%%")))
  return require("cli.policy_hints").of(n > 0 and text or path .. ": " .. text)
end

-- Tokens that are kept, and lack what the type reads of cred.state from now on.
local function note_kept(ctx, pol)
  if not (pol and pol.refresh) then return end
  local code, now = "\n" .. pol.source:gsub("%-%-[^\n]*", ""), require("time").wall()
  for name, record in db.each("credential", "") do
    local token = record and record.type == pol.name and require("cli.token_state").read(record, now)
    local state = token and token.valid and db.peek("state", name, "its token")
    local has, lacks = state and state.values or {}, {}
    for _, sealed in ipairs(state and state.sealed or {}) do has[sealed] = true end
    for word in code:gmatch("%.state%.([%a_][%w_]*)") do
      if state and has[word] == nil then lacks[word] = true end
    end
    for word in pairs(lacks) do
      ctx.note(("note: %s: the token that is kept for '%s' has no %s: requests with it fail until it is renewed (it is %s);\n"
        .. "  %s"):format(pol.name, name, word, require("cli.credential_test").ends(token), pol.connect
        and "sallyport connect " .. name or ("sallyport credential disable %s; sallyport credential enable %s: it ends now"):format(name, name)))
    end
  end
end

-- Credentials over plain HTTP, whose sealed texts would never be opened.
local function note_clear(ctx, pol)
  for name, record in db.each("credential", "") do
    local row = pol and pol.seal and pol.seal[1] and record and record.type == pol.name and require("cli.seal_try").in_the_clear(pol, record)
    if row then
      ctx.note(("note: %s: '%s' goes over plain HTTP, too, where no sealed text is opened (%s):\n  sallyport credential set %s --clear plain-http, or mint=refuse"):format(
        pol.name, name, require("seal").call(row), name))
    end
  end
end

-- What a policy that passes lacks all the same.
local function notes(ctx, pol)
  for _, text in ipairs(pol and require("cli.policy_examples").notes(pol) or {}) do
    ctx.note(("note: %s: %s"):format(pol.name, text))
  end
end

-- From here on log(…) of policies is shown, through `say`.
local function show_log(say)
  require("policy_log").listen(function(name, text) say(("log     %s  %s\n"):format(name, text)) end)
end

local function put(args, opt, ctx)
  local note, bad = records.text(opt.note or "put")
  if not note then report.usage("--note: " .. bad) end
  db.open(ctx)
  local name, text = read(ctx, args[1])
  if opt.sha256 then
    local want, is = opt.sha256:lower():gsub("^sha256:", ""), require("policy_store").sha256(text)
    if not want:find("^%x+$") or #want ~= 64 then report.usage("--sha256 is 64 hexadecimal digits, as sha256sum prints them") end
    if want ~= is then
      report.fail(("%s is not what was pinned: its SHA-256 is %s"):format(report.clean(args[1]), is), "nothing was changed; what served before goes on serving")
    end
  end
  local version, why, pol = require("cli.policy_versions").put(name, text, note)
  if not version then
    report.fail(in_file(why, name, args[1]), "nothing was changed; what served before goes on serving")
  end
  ctx.note(("%s is at version %d, from the next request."):format(name, version))
  report.answer(ctx, { name = name, version = version })
  notes(ctx, pol)
  note_kept(ctx, pol)
  note_clear(ctx, pol)
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
    local version, pol
    version, why, pol = require("cli.policy_versions").put(name, text, "edit")
    if version then
      os.remove(path)
      report.answer(ctx, { name = name, version = version })
      ctx.note(("%s is at version %d, from the next request; sallyport policy rollback %s takes it back.")
        :format(name, version, name))
      notes(ctx, pol)
      note_kept(ctx, pol)
      note_clear(ctx, pol)
      return 0
    end
    ctx.note("sallyport: " .. in_file(why, name, path))
    if not again(ctx) then
      report.fail("refused; what served before goes on serving",
        ("your text is in %s: mend it, then sallyport policy put %s"):format(path, path))
    end
  end
end

local function is_file(what) return what:find("/", 1, true) ~= nil or what:find("%.lua$") ~= nil end

local function test(args, _, ctx)
  local list, failed, results, files = args, 0, report.array(), #args > 0
  for _, what in ipairs(list) do files = files and is_file(what) end
  if not files then db.open(ctx) end
  show_log(ctx.out)
  if #list == 0 then list = require("cli.policy_versions").names() end
  for _, what in ipairs(list) do
    local name, text, count, ok, why
    if is_file(what) then
      name, text = read(ctx, what)
    else
      name = need(what)
      text, why = require("policy_store").source(name)
    end
    if text then ok, count = require("cli.policy_examples").test(name, text) end
    results[#results + 1] = { name = name, ok = ok and true or false, examples = ok and count or nil,
      error = not ok and tostring(text and count or why) or nil }
    if ok then
      ctx.out(("%s      %s  %d example%s\n"):format(terminal.paint(ctx, "good", "ok"), name, count, count == 1 and "" or "s"))
      notes(ctx, ok)
    else
      failed = failed + 1
      ctx.out(("%s  %s  %s\n"):format(terminal.paint(ctx, "bad", "failed"), name, report.clean(text
        and in_file(count, name, is_file(what) and what or "policies/" .. name .. ".lua") or tostring(why))))
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
  ctx.out(ctx.json and report.json(out) or terminal.columns(ctx, { "VERSION", "", "SAVED", "NOTE" }, rows, 2))
  return 0
end

-- ---- a type of one's own -------------------------------------------------------------------------

local HEAD = [[
-- %s: a %s of your own, begun as a copy of %s.
--   sallyport policy help            what a type may say and call
--   sallyport policy test ./%s       compiles it and runs the examples at its end
%s--   sallyport policy put ./%s        from then on: sallyport %s add NAME --type %s …
--
]]
local TRY = "--   sallyport policy try ./%s GET https://HOST/PATH     a request before and after; nothing is sent\n"
local MANUAL = { start = "acme", rule = "office" }       -- topics of the manual that have a whole policy, and its name there

local function new(args, opt, ctx)
  local name, like = args[1]:gsub("%.lua$", ""), opt.like or "api_key"
  if not policy.name_ok(name) then
    report.usage("a type's name is small letters, digits and _, at most 40, and begins with a letter", "sallyport policy new acme")
  end
  if require("sandbox").default_source(name) then
    report.fail(("%s is a type of this binary"):format(name), ("sallyport policy edit %s changes it; a new one has a name of its own"):format(name))
  end
  local store = ctx.host.stat(ctx.home or "") ~= nil
  if store then db.open(ctx) end
  if store and require("policy_store").head(name).active ~= 0 then
    report.fail(("there is a policy '%s' already"):format(name), ("sallyport policy edit %s"):format(name))
  end
  local source = MANUAL[like] and require("cli.policy_manual").whole(like) or store and require("policy_store").source(need(like)) or require("sandbox").default_source(like)
  if not source then report.fail(("there is no type '%s'"):format(report.clean(like):sub(1, 40)), "sallyport policy list") end
  local whose = MANUAL[like] and "the manual's whole " .. (like == "start" and "type" or like) or like
  like = MANUAL[like] or like
  local pol = policy.compile(like, source)
  local rule = pol and pol.kind == "rule"
  if not pol or not rule and pol.kind ~= "type" then report.fail(("%s is no credential type, and no rule"):format(like), "sallyport policy list") end
  local file = name .. ".lua"
  local text = source:gsub("(%f[%w_]name%s*=%s*)([\"'])" .. plain_pattern(like) .. "%2", ("%%1%%2%s%%2"):format(name), 1)
  text = text:gsub("(%-%-type )" .. plain_pattern(like) .. "%f[^%w_]", "%1" .. name)
  text = HEAD:format(file, rule and "rule" or "credential type", whose, file, TRY:format(file), file, rule and "rule" or "credential", name) .. text
  local ok, why = require("cli.policy_examples").test(name, text)
  if not ok then report.fail(in_file(why, name, file), ("%s could not be copied: sallyport policy show %s"):format(like, like)) end
  if ctx.host.stat(file) then report.fail(("there is a file %s here already"):format(file), "move it away, or choose another name") end
  local written, bad = require("cli.files").write(ctx.host, file, text, tonumber("644", 8))
  if not written then report.fail(("cannot write %s: %s"):format(file, bad)) end
  report.answer(ctx, { name = name, file = file, like = like })
  ctx.note(("%s is written, a copy of %s that passes its examples. Change it, and then: sallyport policy test ./%s"):format(file, whose, file))
  return 0
end

local function header_of(line, into)
  local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
  if not name or not require("http").field_name_ok(name) or not require("http").field_value_ok(value) then
    report.usage("a header is written NAME: VALUE", "-H 'Accept: application/json'")
  end
  if name:lower() == "host" then report.usage("the host is the URL's", "leave out -H 'Host: …'") end
  into[name] = value
end

local BODY_MAX = 1 << 20

local function try(args, opt, ctx)
  local what, method, url = args[1], args[2], args[3]
  local file = is_file(what)
  if not file or opt.credential then db.open(ctx) end
  local name, text
  if file then
    name, text = read(ctx, what)
    if name == "match" then db.open(ctx) end
  else
    name = need(what)
    text = require("policy_store").source(name)
  end
  local pol, why = policy.compile(name, tostring(text))
  if not pol then report.fail(in_file(why, name, file and what or "policies/" .. name .. ".lua")) end
  if not method:find("^%u+$") then report.usage("a method is written in capitals: GET, POST", "usage: sallyport policy try FILE METHOD URL") end
  if not require("http").parse_url(url) then report.usage("that is not a URL", "sallyport policy try FILE GET https://api.example.com/v1/me") end
  local headers, words = {}, table.move(args, 4, #args, 1, {})
  for _, line in ipairs(opt.header or {}) do header_of(line, headers) end
  local body = opt.data and require("cli.files").body(ctx, opt.data, BODY_MAX)
  local answer = opt.answer and require("cli.files").body(ctx, opt.answer, require("cli.seal_try").MAX)
  if answer and pol.kind ~= "type" then report.usage("--answer is for a type: what of it would be sealed?") end
  if opt.credential and words[1] then report.usage("--credential NAME has its own fields", "leave out FIELD=VALUE, or --credential") end
  return require("cli.policy_try").run(ctx, pol, {
    method = method, url = url, headers = headers, body = body, answer = answer, credential = opt.credential, agent = opt.agent, bare = not words[1],
    read = function() return require("cli.fields").read(ctx, pol.fields or {}, words) end,
    place = function(reason) return in_file(reason, name, file and what or "policies/" .. name .. ".lua") end,
  })
end

local function check(args, _, ctx)
  local out, worst = report.array(), 0
  for _, file in ipairs(args) do
    local name, text = read(ctx, file)
    local pol, why = policy.compile(name, text)
    local found
    if pol then
      found = require("cli.policy_lint").check(pol)
    else
      local line, reason = in_file(why, name, file):match(":(%d+): (.*)$")
      line = math.tointeger(tonumber(line)) or 1
      local n, column = 0, 1
      for l in (text .. "\n"):gmatch("([^\n]*)\n") do
        n = n + 1
        if n == line then column = l:find("%S") or 1 end
      end
      found = { { line = line, column = column, code = "refused", text = reason or why } }
    end
    for _, f in ipairs(found) do
      ctx.out(("%s:%d:%d: %s (%s)\n"):format(report.clean(file), f.line, f.column, report.clean(f.text), f.code))
    end
    if found[1] then worst = 1 else ctx.out(("%s      %s\n"):format(terminal.paint(ctx, "good", "ok"), report.clean(file))) end
    out[#out + 1] = { file = file, name = name, ok = not found[1], found = report.array(found) }
  end
  report.answer(ctx, out)
  return worst
end

local function replay(args, opt, ctx)
  local file, recording = args[1], args[2]
  if file and not is_file(file) or not recording then file, recording = nil, file end
  local words = table.move(args, file and 3 or 2, #args, 1, {})
  db.open(ctx)
  local draft
  if file then
    local name, text = read(ctx, file)
    local pol, why = policy.compile(name, text)
    if not pol then report.fail(in_file(why, name, file)) end
    draft = pol
  end
  if opt.bundle then db.need("bundle", opt.bundle) end
  if (words[1] or opt.bundle) and not (draft and draft.kind == "rule") then report.usage("FIELD=VALUE and --bundle are for a draft of a rule") end
  local fields
  if draft and draft.kind == "rule" then
    local read_fields = require("cli.fields").read(ctx, draft.fields, words)
    local ok, name, message = policy.check_credential(draft, read_fields.values)
    if not ok and (words[1] or opt.bundle) then report.usage(("%s %s"):format(tostring(name), tostring(message))) end
    fields = ok and read_fields.values or {}
  end
  return require("cli.replay").run(ctx, { draft = draft, file = recording, bundle = opt.bundle, fields = fields })
end

local function users_of(name)
  local use, list = uses()[name], {}
  for i, key in ipairs(use and use.credentials or {}) do list[i] = key end
  for _, rule in ipairs(use and use.rules or {}) do list[#list + 1] = ("rule %s of %s"):format(rule.name, rule.bundle) end
  return list
end

local function rename(args, _, ctx)
  db.open(ctx)
  local name, new = need(args[1]), args[2]
  if not policy.name_ok(new) then report.usage("a policy's name is small letters, digits and _, at most 40, and begins with a letter") end
  if require("sandbox").default_source(name) then
    report.fail(("%s came with this binary, and keeps its name"):format(name), ("sallyport policy new %s --like %s copies it"):format(new, name))
  end
  local store, policies = require "store", require "policy_store"
  local users
  db.change(function()
    if require("sandbox").default_source(new) or store.peek("policy", new) then report.fail(("there is a policy '%s' already"):format(new)) end
    local head, ops = policies.head(name), {}
    local source
    for key, rec in db.each("policy", name .. "/") do
      if rec then
        local text = rec.source:gsub("(%f[%w_]name%s*=%s*)([\"'])" .. plain_pattern(name) .. "%2", ("%%1%%2%s%%2"):format(new), 1)
        local n = math.tointeger(tonumber(key:sub(#name + 2)))
        if n == head.active then source = text end
        ops[#ops + 1] = { op = "put", db = "policy", key = policies.key(new, n), version = 0,
          plain = { source = text, saved_at = rec.saved_at, note = rec.note, base = rec.base } }
      end
      ops[#ops + 1] = { op = "del", db = "policy", key = key }
    end
    local pol, why
    if source then pol, why = require("cli.policy_examples").test(new, source) end
    if not pol then report.fail(("%s would be refused under its new name: %s"):format(name, tostring(why or "it has no version in force"))) end
    ops[#ops + 1] = { op = "del", db = "policy", key = name, version = head.version }
    ops[#ops + 1] = { op = "put", db = "policy", key = new, version = 0, plain = { name = new, active = head.active, latest = head.latest } }
    users = users_of(name)
    for key, rec in db.each("credential", "") do
      if rec and rec.type == name then
        local plain = db.plain(rec)
        plain.type = new
        ops[#ops + 1] = { op = "put", db = "credential", key = key, version = rec.version, plain = plain, keep = true }
      end
    end
    for key, rec in db.each("bundle", "") do
      local plain, changed = rec and not key:find("/", 1, true) and db.plain(rec), false
      for _, rule in ipairs(plain and plain.rules or {}) do
        if rule.type == name then rule.type, changed = new, true end
      end
      if changed then ops[#ops + 1] = { op = "put", db = "bundle", key = key, version = rec.version, plain = plain, keep = true } end
    end
    return ops
  end)
  ctx.note(("%s is %s now, with all its versions%s."):format(name, new, users[1] and "; so for " .. report.several(users) or ""))
  report.answer(ctx, { name = new, was = name, users = report.array(users) })
  return 0
end

local function remove(args, _, ctx)
  db.open(ctx)
  local name = need(args[1])
  if require("sandbox").default_source(name) then
    report.fail(("%s came with this binary, which has no way to go without it"):format(name),
      ("sallyport policy rollback %s 0 forgets what was edited"):format(name))
  end
  local users = users_of(name)
  if users[1] then
    local rule = users[1]:match("^rule (.*) of ")
    report.fail(("%s is the type of %s"):format(name, report.several(users)), ("remove %s first: sallyport %s"):format(#users == 1 and "it" or "those",
      rule and "rule remove " .. rule or "credential remove " .. users[1]))
  end
  local count = require("cli.policy_versions").remove(name, function() return #users_of(name) == 0 end)
  report.answer(ctx, { removed = report.array { name } })
  ctx.note(("%s is gone, with its %d version%s."):format(name, count, count == 1 and "" or "s"))
  return 0
end

local function text_of(name, version)
  local text, at = require("policy_store").source(name, version)
  if not text then report.fail(("%s: %s"):format(name, tostring(at)), ("sallyport policy history %s"):format(name)) end
  return text, at
end

-- Two versions of a policy as one text: "" where they are the same.
local function one_diff(name, from, to)
  local function label(v, text_at) return ("%s/%s.lua (%s)"):format(v == 0 and "default" or "policies", name, v == 0 and "built in" or "version " .. text_at) end
  local a, a_at = text_of(name, from)
  local b, b_at = text_of(name, to)
  return require("cli.policy_diff").unified(a, b, label(a_at, a_at), label(b_at, b_at)), a_at, b_at
end

-- Each line in the colour of what it means.
local function painted(ctx, text)
  local terminal = require "cli.terminal"
  if not terminal.colour(ctx) then return text end
  return (text:gsub("[^\n]+", function(line)
    local first = line:sub(1, 1)
    local what = line:find("^%-%-%- ") and "head" or line:find("^%+%+%+ ") and "head" or first == "-" and "bad" or first == "+" and "good"
      or first == "@" and "faint"
    return what and terminal.paint(ctx, what, line)
  end))
end

local function diff(args, _, ctx)
  db.open(ctx)
  local found = false
  if args[1] then
    local name = need(args[1])
    local head, why = require("policy_store").head(name)
    if not head then report.fail(why) end
    local from, to = version_of(args[2]), version_of(args[3])
    if not from then
      local own = not require("sandbox").default_source(name)
      from = own and require("cli.policy_versions").before(name) or 0
      if own and from == nil then report.fail(("%s has one version, and none to compare it with"):format(name)) end
    end
    local text, a, b = one_diff(name, from, to)
    if text == "" then
      ctx.note(a == b and ("%s is as it came with this binary."):format(name)
        or ("versions %d and %d of %s are the same."):format(a, b, name))
    end
    ctx.out(painted(ctx, text))
    return 0
  end
  for _, p in ipairs(require("cli.policy_versions").list(true)) do
    if p.status and p.status:find("^edited") then
      found = true
      ctx.out(painted(ctx, (one_diff(p.name, 0))))
    end
  end
  if not found then ctx.note("Nothing was edited: every policy is as it came with this binary, or your own.") end
  return 0
end

local function rollback(args, _, ctx)
  db.open(ctx)
  local version, why = require("cli.policy_versions").rollback(need(args[1]), version_of(args[2]))
  if not version then
    report.fail(("%s stays as it is: %s"):format(args[1], tostring(why)),
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
  { words = "policy show", args = "NAME [VERSION]", min = 1, max = 2, homeless = true, summary = "its source", help = [[
Prints a policy's source: its first lines say which fields a credential of that type has.

examples:
  sallyport policy show api_key
  sallyport policy show match 0
]], run = show },
  { words = "policy put", args = "FILE", min = 1, max = 1, summary = "keep a policy; its examples must pass",
    options = { { name = "note", arg = "TEXT", help = "why, for the history" },
      { name = "sha256", arg = "HEX", help = "only if the file has this SHA-256: what was reviewed is what is kept" } }, help = [[
Keeps the file as the policy of its name (NAME.lua) and puts it in force at the next request of every worker.
A script that does not compile, has a key that is not known, or fails one of its own examples is refused with
file, line and reason; what served before goes on serving.

examples:
  sallyport policy show api_key > acme.lua   # a type of yours is a copy
  sed -i 's/"api_key"/"acme"/' acme.lua      # its name is the file's
  sallyport policy put acme.lua
  sallyport policy put bearer.lua --note "prefix for the old gateway"
  sallyport policy put acme.lua --sha256 "$(cut -c1-64 acme.lua.sha256)"
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
Puts an older version in force: the one before, or the one named; 0 is the built-in one. `policy use` does the
same, and reads better where the way is forward.

examples:
  sallyport policy rollback match
  sallyport policy rollback bearer 0
]], run = rollback },
  { words = "policy use", args = "NAME VERSION", min = 2, max = 2, summary = "put a kept version in force", help = [[
Puts the version of that number in force, older or newer than the one that is.

example:
  sallyport policy use acme 3
]], run = rollback },
  { words = "policy diff", args = "[NAME [VERSION [VERSION]]]", max = 3, summary = "what was edited, as a diff", help = [[
Shows what differs between the text that came with this binary and the one in force: of one policy, or of all that
were edited. Of a type of your own: between the version before and the one in force. A version compares that
one with the one in force, two versions compare these; 0 is the built-in one.

examples:
  sallyport policy diff
  sallyport policy diff match
  sallyport policy diff acme 1 3
]], run = diff },
  { words = "policy new", args = "NAME [--like TYPE]", min = 1, max = 1, homeless = true, summary = "begin a type or a rule of your own",
    options = { { name = "like", arg = "TYPE", help = "the type or rule that it is a copy of; start or rule: the manual's example; api_key unless named" } }, help = [[
Writes NAME.lua in this folder: a copy of the type with comments, whose examples pass. Nothing is kept until
`policy put`.

examples:
  sallyport policy new acme
  sallyport policy new acme --like hmac
  sallyport policy new acme --like start     # a signature and a token exchange
  sallyport policy new office2 --like rule   # a rule
]], run = new },
  { words = "policy check", args = "FILE …", min = 1, homeless = true, summary = "what a policy says by mistake", help = [[
Reads policies as their authors might after a break: names that are no globals, locals that nothing reads, comparisons that
can only come out one way, patterns that take for ever on some texts, examples that are missing; and whatever the compiler
refuses. Each with line and column. Nothing is run but the file's own top level. Exit 1 where something was found.

examples:
  sallyport policy check ./acme.lua
  sallyport policy check ./*.lua --json | jq '.[].found[]'
]], run = check },
  { words = "policy api", max = 0, homeless = true, summary = "what policies may say and call, for editors", help = [[
Prints annotations for editors that read LuaLS's or EmmyLua's: what a policy may say and call, with the manual's sentences. Put
the file beside your policies; its head says how an editor is told of it.

examples:
  sallyport policy api > sallyport.lua
]], run = function(...) return require("cli.policy_api").run(...) end },
  { words = "policy replay", args = "[FILE] RECORDING [FIELD=VALUE …]", min = 1,
    summary = "what a draft would decide otherwise of recorded requests",
    options = { { name = "bundle", arg = "BUNDLE", help = "a draft of a rule: asked as the last one of this bundle" } }, help = [[
Decides each request of a recording (`sallyport record`) anew, by the code that decides in the proxy, on the store as it is,
with the draft FILE (match.lua, presets.lua, a type, a rule) in the place of the policy of its name; without FILE by what is in
force. Says where the decision would be another than it was. What the record lacks, a header's value, a body, a person's
word, is `unknown` and counted, never guessed. Exit 0: all that is known is decided as it was; 1: some is not.
A rule that stands in no bundle yet is asked last in all, or in --bundle, with these fields.

examples:
  sallyport policy replay traffic.jsonl
  sallyport policy replay ./match.lua traffic.jsonl
  sallyport policy replay ./office.lua traffic.jsonl --bundle default from=09:00 to=17:00
  sallyport policy replay ./acme.lua traffic.jsonl --json | jq .differences
]], run = replay },
  { words = "policy try", args = "FILE|NAME METHOD URL [FIELD=VALUE …]", min = 3, homeless = true,
    summary = "a request before and after; sends nothing",
    options = { { name = "header", short = "H", arg = "'NAME: VALUE'", many = true, whole = true, help = "-H: a header of the agent's" },
      { name = "data", short = "d", arg = "TEXT|@FILE|-", empty = true, help = "-d: the body" },
      { name = "answer", arg = "TEXT|@FILE|-", empty = true, help = "an answer to it, or its body alone: what of it is sealed?" },
      { name = "agent", arg = "AGENT", help = "of a rule, or of what matches: whose request it is" },
      { name = "credential", arg = "NAME", help = "its fields; its secrets are not read" } }, help = [[
Shows what a type makes of a request, and sends nothing: the request before and after, what was stripped, what
log(…) says, and how many instructions it took. Secrets are never used: «name» stands where one would go, and a
signature is made with a stand-in. A refresh runs on the answers of an example that has some; else the token is a
stand-in too. Where a row of `seal` holds for the call it says what of the answer is sealed, and of an --answer (as curl -i shows
it, or a body alone) which members, for how long, and where the text opens; no value is shown. Plain fields that are not given come from the file's first example. A draft of a rule says what it makes of the
request, with its counters at nothing; a draft of what matches decides on the store as it is, as `explain` shows it.

examples:
  sallyport policy try ./acme.lua GET https://api.acme.test/v1/me
  sallyport policy try acme POST https://api.acme.test/v1/x -H 'Content-Type: application/json' -d '{"a":1}' account=7
  sallyport policy try ./acme.lua GET https://api.acme.test/v1/me --credential a1
  sallyport policy try ./acme.lua POST https://api.acme.test/v1/sessions --answer '{"session_token":"x","expires_in":600}'
  sallyport policy try ./office.lua POST https://api.acme.test/v1/orders from=8 to=18
]], run = try },
  { words = "policy rename", args = "NAME NEW", min = 2, max = 2, summary = "give a policy of your own another name", help = [[
Gives a policy of your own another name, with all its versions; credentials of that type and rules of bundles follow in the same
write. Tokens that a type has fetched are fetched anew, but for accounts that were connected.

example:
  sallyport policy rename acme acme_payments
]], run = rename },
  { words = "policy remove", args = "NAME", min = 1, max = 1, summary = "forget a type of your own", help = [[
Removes a policy of your own with all its versions. Refused while a credential is of that type, and for what came
with this binary.

example:
  sallyport policy remove acme
]], run = remove },
  { words = "policy help", args = "[TOPIC|NAME]", max = 1, homeless = true, summary = "the manual for authors of policies", help = [[
Shows the topics of the manual, a topic, or the entry of one name: every key of a type, every member of a request, every
function, with an example; and of a policy's name its page, made from its own comment and tables.

examples:
  sallyport policy help
  sallyport policy help start
  sallyport policy help secret.hex
  sallyport policy help oauth_client_credentials
]], run = function(...) return require("cli.policy_help").run(...) end },
}
