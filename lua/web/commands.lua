--- Commands of the command line as the page runs them: in this process, one at a time, with the secrets of a form.
local M = {}

local take = require("web.turn").new()

-- What a page may run: a family, and verbs of it or all. What reads or writes files, opens listeners, or says where
-- secrets go without asking for one again (connect-to, upstream-ca) stays on the command line.
local allowed = {
  credential = { add = true, list = true, show = true, presets = true, set = true, enable = true, disable = true, test = true,
    remove = true },
  agent = true, bundle = true, domain = true, rule = true, gateway = true, tenant = true, user = true, role = true, client = true,
  key = true, connection = true, approval = true, proposal = true, explain = true, log = true, env = true, status = true,
    doctor = true, disconnect = true,
  seal = { revoke = true }, set = true, webhook = true,
  policy = { list = true, show = true, put = true, test = true, try = true, history = true, rollback = true, use = true, diff = true,
    remove = true },
}

--- Options that have no part in a form or a request: they follow, write files, run the programs of a folder, look names up, or take what was changed
-- on the disk for good.
M.hidden = { home = true, json = true, help = true, follow = true, resolve = true, helpers = true, accept = true, format = true, ["ca-dir"] = true }

--- Settings that a page changes. The others name files and helpers, open listeners, or say where connections go.
M.SETTINGS = { memory = true, ["body-max"] = true, ["seal-max"] = true, ["approval-wait"] = true, ["dial-timeout"] = true,
  ["answer-timeout"] = true, ["idle-timeout"] = true, ["upstream-http"] = true, ["webhook-format"] = true, ["webhook-events"] = true,
  workers = true, ["gateway-workers"] = true, log = true, ["log-size"] = true, ["log-age"] = true,
    echo = true }

--- The command of these words that a page may run: its row of the table | nil
function M.find(words)
  local first, verb = words:match("^(%S+) ?(.*)$")
  local a = first and allowed[first]
  if not a or type(a) == "table" and not a[verb] then return nil end
  for _, c in ipairs(require("cli").commands_of(first)) do
    if c.words == words then return c end
  end
end

--- Where the record lies in whose place a command puts another that it makes: database, key | nil. first, second: its arguments
function M.replaces(words, first, second)
  if words == "domain add" then return "bundle", ("%s/%s"):format(first, require("records").host(second or "", true) or "") end
  if words == "role add" then return "user", "r/" .. first end
end

local LEFT = 600        -- s after which a draft's folder is nobody's any more: a command that takes so long was given up

-- Takes away the folders that processes left which were killed within a turn.
local function sweep(home)
  local host, files, now = require "host", require "cli.files", require("time").wall()
  for _, name in ipairs(files.names(home)) do
    local dir = home .. "/" .. name
    local is = #name == 28 and name:find("^draft%-[%w_-]+$") and host.stat(dir)
    if is and is.type == "dir" and now - is.mtime // 1000000000 > LEFT then
      for _, file in ipairs(files.names(dir)) do os.remove(dir .. "/" .. file) end
      os.remove(dir)
    end
  end
end

-- A policy's text goes to its command in a file NAME.lua, for that is what it takes: in a folder of its own, which nobody could foresee and in
-- which nothing of the operator's stands. The folder, until it is closed | nil
local function draft(home, name, text)
  local host = require "host"
  sweep(home)
  local dir = ("%s/draft-%s"):format(home, host.random_token(""):sub(1, 22))
  if not host.mkdir(dir, tonumber("700", 8)) then return nil end
  local path = ("%s/%s.lua"):format(dir, name)
  local made = setmetatable({ dir = dir, path = path }, { __close = function()
    os.remove(path)
    os.remove(dir)
  end })
  if require("cli.files").write(host, path, (text:gsub("\r\n", "\n")), tonumber("600", 8)) then return made end
  local _ <close> = made
  return nil
end

--- run({ "credential", "add", … }, { home =, typed = { label = text or secret } | nil, lines = bool,
-- asked = { by =, door =, client = } | nil, expect = { db, key, version } | nil, source = { NAME, text } | nil }) ->
-- { code =, value = (its JSON; with `lines` a list of lines), notes = { text … }, error = { message =, hint = } | nil,
-- busy = nothing was tried, changed = the record was not of that version }
-- typed: what stands for FIELD=- of a secret. asked: whose change it is, for its record. expect: the version that a
-- record must have when the command commits. source: of a policy that is no file yet, the third of the words. Yields.
function M.run(args, given)
  local turn <close> = take()
  if not turn then return { code = 1, notes = {}, busy = true, error = { message = "another change is still being made", hint = "try again" } } end
  local file <close> = given.source and draft(given.home, given.source[1], given.source[2])
  if given.source then
    if not file then return { code = 1, notes = {}, busy = true, error = { message = "there is no room for the policy's text", hint = "free some and try again" } } end
    args = table.move(args, 1, #args, 1, {})
    args[3] = file.path
  end
  local out, notes = {}, {}
  local ctx = { home = given.home, opened = true, json = true, page = true, asked = given.asked,
    typed = given.typed or {}, draft = file and file.path,
    host = setmetatable({ isatty = function() return false end }, { __index = require "host" }),
    out = function(s) out[#out + 1] = s end, note = function(s) notes[#notes + 1] = s end }
  local db = require "cli.db"
  db.expect, db.judge = given.expect, require("web.bounds").strays
  local ok, code = pcall(require("cli").main, args, ctx)
  local changed = db.expect and db.expect.failed
  db.expect, db.judge = nil, nil
  local text = table.concat(out)
  if file then text = text:gsub(file.dir:gsub("%W", "%%%0") .. "/", "") end       -- NAME.lua:3, as its author knows it
  local got = { code = ok and code or 1, notes = notes, changed = changed }
  if given.lines then
    got.value = {}
    for line in text:gmatch("[^\n]+") do got.value[#got.value + 1] = line end
  else
    got.value = require("json").decode(text)
  end
  if not ok then
    got.error = { message = "this is a fault in sallyport", hint = "sallyport log --kind change" }
  elseif code ~= 0 then
    local said = require("json").decode(text)
    got.error = type(said) == "table" and type(said.error) == "table" and said.error or nil
    for _ = 1, got.error and (got.error.hint and 2 or 1) or 0 do notes[#notes] = nil end      -- the same, for a terminal
  end
  return got
end

--- What f answers, in a turn of its own, its changes being those of `who` (changes.lua): for what a page does that is no command. nil, "held": the one
-- before took too long. Yields.
function M.as(who, f)
  local turn <close> = take()
  if not turn then return nil, "held" end
  local changes = require "changes"
  local before = changes.process
  changes.process = who
  local _ <close> = setmetatable({}, { __close = function() changes.process = before end })
  return f()
end

local DOCTOR_KEPT = 60000       -- ms: it asks for each secret that lies elsewhere, with its program
local look, found = require("web.turn").new(), nil

--- What doctor finds, at most a minute old: as run answers. Yields.
function M.doctor(home)
  local turn <close> = look()
  if not turn then return { code = 1, notes = {}, busy = true, error = { message = "the check before is still going on", hint = "try again" } } end
  local now = require("time").now()
  if not found or found.home ~= home or now - found.at > DOCTOR_KEPT then
    local got = M.run({ "doctor" }, { home = home })
    if got.value == nil then return got end
    found = { at = now, home = home, got = got }
  end
  return found.got
end

--- Whether a credential of this type has an account that somebody signs in to.
function M.signs_in(type_)
  local pol = require("policy_store").load(type_)
  return pol ~= nil and pol.connect ~= nil and pol.connect ~= false
end

--- The same as one would type it; secrets as FIELD=-.
function M.line(args)
  local words = {}
  for i, a in ipairs(args) do words[i] = require("env").quote(a) end
  return "sallyport " .. table.concat(words, " ")
end

return M
