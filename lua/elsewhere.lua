--- Secrets that the store does not hold: "exec:NAME ARGUMENT…" is what a program in the folder of `serve --helpers` prints,
-- "file:PATH" what a file has. A credential's record has the texts in `from`, by the names of its secrets ("f/token",
-- "h/x-key", "c/client_key"). Values are fetched when they are needed, kept for the record's `ttl` in memory alone, by one
-- task of a worker for all who wait, and again after a 401.
local M = {}
M.__index = M

M.TTL = 300                 -- s that a value is kept, unless the record says otherwise
M.TTL_MIN, M.TTL_MAX = 1, 30 * 86400
local FETCH_MAX = 10000     -- ms for all values of a credential
local EARLY = 0.8           -- of a ttl: from then on it is fetched again while the old value still serves
local DROP_EVERY = 10000    -- ms: an agent that provokes 401s must not run the program each time
local BACKOFF_MAX = 60      -- s: 1, 2, 4, … 60 between two tries that fail
local POLL = 5              -- ms between two looks at the task that fetches
local NOTE_MAX = 5000       -- ms for the store to note that a value is another one
local WORDS_MAX = 60        -- of a program and its arguments
local TEXT_MAX = 2000       -- bytes of a source's text

-- What went wrong, behind "its token comes from elsewhere, and ". No path and no program: an agent reads it.
local said = {
  no_helpers = "the proxy was started without a folder of programs: serve --helpers DIR",
  command_failed = "its program failed; the log has its exit status",
  command_timeout = "its program did not end in time",
  command_missing = "there is no such program in the folder of serve --helpers",
  command_unsafe = "its program, or the folder, may be written to by other users",
  command_too_large = "its program printed more than 64 KiB",
  command_busy = "its program could not be run now",
  empty = "there is nothing in it",
  control = "it has a control byte in it (a line break, perhaps)",
  too_large = "it is too large",
  absent = "its file is not there",
  unsafe = "its file, or a folder above it, is open to other users",
  unreadable = "its file cannot be read",
  malformed = "it is not the document that it should be",
  unfit = "its type does not take it",
  store = "the store could not note that it is another one than before",
}
local transient = { command_timeout = true, command_busy = true, store = true }

--- A code as a sentence.
function M.sentence(code) return said[code] or tostring(code) end

--- Does a secret field's text say where the secret comes from?
function M.is(text) return text:find("^exec:") ~= nil or text:find("^file:") ~= nil end

-- A program and its arguments, parted by spaces, in quotes where one holds some: a list | nil
local function words(text)
  local list, at = {}, 1
  while true do
    at = text:find("%S", at)
    if not at then return list end
    local quote = text:match("^[\"']", at)
    local word, stop = text:match(quote and ("^%s([^%s]*)%s()"):format(quote, quote, quote) or "^([^%s\"']+)()", at)
    if not word or text:find("^%S", stop) or #list >= WORDS_MAX then return nil end
    list[#list + 1], at = word, stop
  end
end

--- { exec = { program, argument… } } or { file = path } | nil, why. `text` as it was typed.
function M.parse(text)
  if #text > TEXT_MAX or text:find("%c") or not utf8.len(text) then return nil, "has a control byte in it, or is too long" end
  local path = text:match("^file:(.*)$")
  if path then
    if path:sub(1, 1) ~= "/" then return nil, "file: is followed by a path from the root: file:/run/credentials/sallyport.service/gh" end
    return { file = path }
  end
  local list = words(text:match("^exec:(.*)$") or "")
  if not list then return nil, "exec: has a quote that is not closed, or stands inside a word" end
  if not list[1] or not list[1]:find("^[%w_][%w_.+-]*$") then
    return nil, "exec: is followed by a file's name in the folder of serve --helpers, which is no path: exec:vault secret/github token"
  end
  return { exec = list }
end

-- ---- one value -----------------------------------------------------------------------------------

-- What other users may do with it | nil. A folder in which everybody may make files, and nobody touch another's, may be root's.
local function open_to_others(st, uid)
  if st.uid ~= 0 and st.uid ~= uid then return "belongs to another user" end
  if st.type == "link" or st.type == "dir" and st.uid == 0 and st.mode & tonumber("1000", 8) ~= 0 then return nil end
  return st.mode & tonumber("22", 8) ~= 0 and "may be written to by other users" or nil
end

--- Is it a plain file of root's or ours that nobody else can read, and that nobody else can put another one in the place
-- of? The path without links | nil, code, what is wrong. host.stat and host.realpath are asked.
function M.file_ok(host, path)
  local real, why = host.realpath(path)
  if not real then return nil, why == "absent" and why or "unreadable", ("%s: %s"):format(path, why == "absent" and "there is no such file" or why) end
  local uid = host.uid()
  -- The path as it was typed, too: who may write to a folder with a link says which file it is.
  for _, name in ipairs { real, path ~= real and path or nil } do
    local at = ""
    for part in name:gmatch("/+[^/]+") do
      at = at .. part
      local st, led = host.stat(at), host.stat(at, true)
      local last = at == real
      if not (st and led) or name == real and st.type ~= (last and "file" or "dir") then
        return nil, "unreadable", at .. (last and " is no plain file" or " is no folder")
      end
      local open = open_to_others(st, uid) or open_to_others(led, uid)
      if open then return nil, "unsafe", at .. " " .. open end
      -- Root's file may be a group's: that is how it reaches a service's user, as in systemd's credentials.
      local shut = st.uid == 0 and uid ~= 0 and tonumber("7", 8) or tonumber("77", 8)
      if last and st.mode & shut ~= 0 then return nil, "unsafe", at .. " may be read by other users: chmod 600" end
    end
  end
  return real
end

--- The value: secret | nil, code, detail for the operator. Yields where it is a program. host: the module; multiline:
-- it may have lines.
function M.get(host, text, multiline, deadline)
  local from = M.parse(text)
  if not from then return nil, "malformed" end
  local value, second, detail
  if from.file then
    local real, code, why = M.file_ok(host, from.file)
    if not real then return nil, code, why end
    value, second = host.read_secret("file", real, { multiline = multiline })
    if not value and not said[second] then second, detail = "unreadable", ("%s: %s"):format(real, second) end
  else
    local left = math.max(1, deadline - require("time").now())
    value, second, detail = host.command({ whole = true, multiline = multiline, timeout = left, table.unpack(from.exec) }, deadline)
    detail = detail and second == "command_failed" and ("it ended with %d"):format(detail) or nil
  end
  if not value then return nil, second, detail end
  if second then return nil, "empty" end    -- has it no bytes?
  return value
end

-- ---- a credential's values -----------------------------------------------------------------------

--- The field of a secret's name ("f/NAME[/KEY]") | nil
function M.spec(pol, sealed)
  local name = sealed:match("^f/([^/]+)")
  return name and pol.by_name[name] or nil
end

--- The record with these values ({ [name] = secret, or a document's members }), and all else as it is.
function M.merged(rec, values)
  local out = {}
  for k, v in pairs(rec) do out[k] = v end
  out.secrets, out.split = {}, {}
  for k, v in pairs(rec.secrets or {}) do out.secrets[k] = v end
  for k, v in pairs(rec.split or {}) do out.split[k] = v end
  for sealed, value in pairs(values) do
    if type(value) ~= "table" then out.secrets[sealed] = value else
      local plain = {}
      for member, v in pairs(value) do
        if type(v) == "string" then plain[member] = v else out.secrets[sealed .. "/" .. member] = v end
      end
      out.split[sealed:sub(3)] = plain
    end
  end
  return out
end

--- All values of a record: { [name] = … } | nil, code, detail, name. Yields.
function M.values(host, pol, rec, deadline)
  local out, names = {}, {}
  for sealed in pairs(rec.from) do names[#names + 1] = sealed end
  table.sort(names)
  for _, sealed in ipairs(names) do
    local spec = M.spec(pol, sealed)
    local multiline = sealed == "c/client_key" or spec ~= nil and (spec.type == "pem" or spec.type == "document")
    local value, code, detail = M.get(host, rec.from[sealed], multiline, deadline)
    if value and spec and spec.split then
      local members, why, member = require("cli.document").split(value, spec.split)
      value, code, detail = members, "malformed", member and ("%s '%s'"):format(why, member) or why
    end
    if not value then return nil, code, detail, sealed end
    out[sealed] = value
  end
  return out
end

--- The name of a secret as people type it.
function M.label(sealed) return (sealed:gsub("^[fc]/", ""):gsub("^h/", "headers."):gsub("/", ".")) end

-- ---- in a worker ---------------------------------------------------------------------------------

--- with = { host, time, policy, cache, spawn (nil: a command), log, opened_of = function(name, rec) -> opened | nil, code, why }
function M.new(with)
  local self = setmetatable({}, M)
  for k, v in pairs(with) do self[k] = v end
  self.kept = with.cache(1024)
  return self
end

-- What is known of this credential: { id, from, values, at, till, early (ms), failed = code, detail, retry, fails, task, dropped }
local function entry_of(self, base)
  local e = self.kept:get(base.name)
  if not e or e.id ~= base.rec.id or not require("records").same(e.from, base.rec.from) then
    e = { id = base.rec.id, from = base.rec.from }
    self.kept:put(base.name, e)
  end
  return e
end

-- With these values, as a credential ready to be applied. nil, code, detail
local function made(self, base, values)
  local full, _, why = self.opened_of(base.name, M.merged(base.rec, values))
  if not full then return nil, "unfit", why end
  local ok, field, message = self.policy.check_credential(full.pol, self.policy.record_view(full.pol, full.rec, nil))
  if not ok and not full.wants then return nil, "unfit", ("%s %s"):format(field or "", tostring(message)) end
  full.still, full.base_of = nil, base      -- C keeps no route of it: its end is not a matter of the store
  return full
end

-- By which the values are known again: their record keeps it.
local function mark_of(store, values)
  local list = {}
  for sealed, value in pairs(values) do
    for member, v in pairs(type(value) == "table" and value or { [""] = value }) do
      list[#list + 1] = ("%s/%s %s"):format(sealed, member, store.mark(v))
    end
  end
  table.sort(list)
  return store.mark(table.concat(list, "\n"))
end

-- Other values than the last ones replace the secret: what was sealed for the credential before opens no more, in no worker and
-- after a restart. False: the store did not take it.
local function noted(self, base, values)
  local store, now = self.store, self.time.now
  local mark, till = mark_of(store, values), now() + NOTE_MAX
  while true do
    local rec = store.peek("credential", base.name)
    if not rec or rec.id ~= base.rec.id or rec.noted == mark or not require("records").same(rec.from, base.rec.from) then return true end
    local op = require("token").moved(rec)
    op.plain.noted, op.moves = mark, rec.noted ~= nil
    local ok, why = store.commit({ op }, till)
    if ok then return true end
    if why ~= "conflict" or now() >= till then return false end
  end
end

local function fetch(self, base, e)
  local time = self.time
  local began = time.now()
  local values, code, detail, sealed = M.values(self.host, base.pol, base.rec, began + FETCH_MAX)
  local full
  if values then full, code, detail = made(self, base, values) end
  if full and self.store and full.seal_rows and full.seal_rows[1] and not noted(self, base, values) then full, code = nil, "store" end
  if not full then
    e.fails = (e.fails or 0) + 1
    e.failed, e.field = code, sealed and M.label(sealed) or nil
    e.retry = time.now() + 1000 * math.min(BACKOFF_MAX, 2 ^ math.min(e.fails - 1, 10))
    if self.log then
      self.log(("ev=elsewhere credential=%s%s err=%s%s"):format(base.name, sealed and " field=" .. M.label(sealed) or "", code,
        detail and " why=" .. require("errors").quote(tostring(detail)) or ""))
    end
    return
  end
  local ttl = 1000 * (base.rec.ttl or M.TTL)
  e.values, e.full, e.at, e.till, e.early = values, full, began, began + ttl, began + math.floor(ttl * EARLY)
  e.failed, e.fails, e.retry, e.anew = nil, nil, nil, true
end

local function kick(self, base, e)
  if e.task and e.task:state() == "running" or e.retry and self.time.now() < e.retry then return end
  if not self.spawn then return fetch(self, base, e) end
  e.task = self.spawn(function() fetch(self, base, e) end)
end

local function refused(self, base, e)
  local left = math.max(1, math.ceil(((e.retry or 0) - self.time.now()) / 1000))
  return nil, transient[e.failed] and "injection_unavailable" or "injection_failed", {
    message = ("credential %s: %s comes from elsewhere, and %s"):format(base.name, e.field and "its " .. e.field or "its secret", M.sentence(e.failed)),
    retry_after = left, code = e.failed,
  }
end

--- The credential with its values: opened, were they fetched just now | nil, code, { message, retry_after, code }. base: as
-- config.open answers it. Yields where they must be fetched.
function M:fresh(base, deadline)
  local e, time = entry_of(self, base), self.time
  while true do
    local now = time.now()
    if e.values and now < e.till then
      if now >= e.early then kick(self, base, e) end
      -- the record is another one; where its values come from is not
      if e.full.base_of ~= base then e.full = made(self, base, e.values) end
      if e.full then
        local anew = e.anew
        e.anew = nil
        return e.full, anew
      end
      e.values = nil      -- its type does not take them: `fetch` says so, and how long to wait
    end
    if e.task and e.task:state() == "failed" then     -- a fault of ours
      e.task, e.failed, e.retry = nil, "unfit", now + 1000 * BACKOFF_MAX
    end
    if e.failed and e.retry and now < e.retry then return refused(self, base, e) end
    if now >= deadline then
      return nil, "injection_unavailable", { message = ("credential %s: its secret comes from elsewhere, and is still being fetched"):format(base.name), retry_after = 1 }
    end
    kick(self, base, e)
    if self.spawn then time.sleep(POLL) end
  end
end

--- An upstream answered 401: the values are fetched again, unless that was done within ten seconds.
function M:rejected(base)
  local e, now = self.kept:get(base.name), self.time.now()
  if not e or not e.values or e.dropped and now - e.dropped < DROP_EVERY then return false end
  e.values, e.full, e.dropped = nil, nil, now
  return true
end

return M
