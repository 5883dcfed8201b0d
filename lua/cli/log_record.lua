--- A line of the request log as commands look at it: what a filter or a sum needs, and what the terminal shows.
local errors = require "errors"
local report = require "cli.report"
local reqlog = require "reqlog"
local M = {}

-- The text of a member, which begins behind byte `at`; nil: there is none, or it is no text.
local function text_of(line, key, at)
  local _, to = line:find(key, at, true)
  local stop = to and line:find('"', to + 1, true)
  return stop and line:sub(to + 1, stop - 1)
end

local KNOWN_MAX = 1000      -- texts that were looked into, and are kept
local known, known_n = {}, 0

-- From the agent to the reason: few differ, so each is looked into once.
local function who(part)
  local w = known[part]
  if w then return w end
  if known_n >= KNOWN_MAX then known, known_n = {}, 0 end
  w = { agent = text_of(part, ',"agent":"', 1), credential = text_of(part, ',"credential":"', 1),
    decision = text_of(part, ',"decision":"', 1), reason = text_of(part, ',"reason":"', 1) }
  known[part], known_n = w, known_n + 1
  return w
end

local seen = {}      -- what `glance` answers: one table, for a log may have a million records

--- What filters and sums ask of a record: { line, time, agent, decision, reason, credential, host, status, error }, or all of
-- it; nil: it is none. Dead at the next call. A quote within a text is never bare, and our records have their members in one
-- order (proxy.c, req_log), so plain searches find them, in a fifth of the time that JSON takes.
function M.glance(line)
  if not reqlog.whole(line) then return nil end
  local _, decided = line:find(',"decision":"', 30, true)
  local method = decided and line:find(',"method":', decided, true)
  local _, host = line:find(',"host":"', method or 30, true)
  local stop = host and line:find('"', host + 1, true)
  local _, status = line:find(',"status":', stop or 30, true)
  if not method or not host or line:find("\\", 1, true) then
    local r = M.read(line)
    if r then r.line = line end
    return r
  end
  local from = line:find(',"agent":"', 30, true)
  local w = who(line:sub(from and from < method and from or decided - 12, method - 1))
  local byte = line:byte(-3)      -- of a record without an error it is a digit
  seen.line, seen.time, seen.host = line, reqlog.time_of(line), line:sub(host + 1, stop - 1)
  seen.agent, seen.credential, seen.decision, seen.reason = w.agent, w.credential, w.decision, w.reason
  seen.status = status and math.tointeger(tonumber(line:match("^%d+", status + 1))) or nil
  seen.error = byte == 34 and text_of(line, ',"error":"', status or stop) or nil
  return seen
end

--- The client's address in a record that `glance` or `read` answered; nil: it does not say.
function M.client(r)
  if r.line then return text_of(r.line, ',"client":"', 1) end
  return type(r.client) == "string" and r.client or nil
end

--- All of a record; nil: it is none.
function M.read(line)
  local r = reqlog.whole(line) and require("json").decode(line)
  if type(r) ~= "table" then return nil end
  r.time = reqlog.time_of(line)
  return r
end

-- ---- the terminal --------------------------------------------------------------------------------

-- The members of a line that something else has written may be anything.
local function text(v) return (type(v) == "string" or type(v) == "number") and tostring(v) or nil end

local function integer(v) return type(v) == "number" and math.tointeger(v // 1) or nil end

--- "900 B", "1.5 KiB": bytes as people read them.
local function bytes(n)
  local unit = 1
  local units = { "B", "KiB", "MiB", "GiB", "TiB" }
  local v = n
  while v >= 1024 and unit < #units do v, unit = v / 1024, unit + 1 end
  return unit == 1 and ("%d B"):format(n) or ("%.1f %s"):format(v, units[unit])
end

local function span(ms) return ms < 10000 and ("%d ms"):format(ms) or ("%.1f s"):format(ms / 1000) end

-- Of a change: the command or page, and what it did to which records.
local function changed(r)
  local out = {}
  for i, c in ipairs(type(r.changes) == "table" and r.changes or {}) do
    local members = {}
    for n, m in ipairs(type(c) == "table" and type(c.members) == "table" and c.members or {}) do members[n] = text(m) or "?" end
    out[i] = type(c) == "table" and ("%s %s%s"):format(text(c.record) or "?", text(c.did) or "?", members[1] and (" (%s)"):format(table.concat(members, ", ")) or "") or "?"
  end
  if integer(r.more) then out[#out + 1] = ("%d more"):format(integer(r.more)) end
  return ("%s: %s"):format(text(r.command) or text(r.page) or "-", table.concat(out, "; "))
end

local function request(r)
  if r.kind == "change" then return changed(r) end
  local count = integer(r.count)
  if count then return ("%d more: %s … %s"):format(count, text(r.first) or "-", text(r.last) or "-") end
  local port = integer(r.port) or 443
  return ("%s %s%s%s"):format(text(r.method) or "-", errors.host(text(r.host) or "-"),
    port ~= 443 and port ~= 0 and ":" .. port or "", text(r.path) or "")
end

-- What there is to say behind the request: why, how long, how much, and of a refusal who it was.
local function details(r)
  local out = {}
  if r.kind == "change" then
    for _, name in ipairs { "error", "oauth_client", "client", "from" } do out[#out + 1] = text(r[name]) end
    return table.concat(out, ", ")
  end
  local reason, code = r.decision == "deny" and text(r.reason), text(r.error)
  if code and not (reason and reason:sub(1, #code + 1) == code .. ":") then out[1] = code end
  if text(r.note) then out[#out + 1] = text(r.note) end
  if reason and reason ~= r.error then out[#out + 1] = reason end
  if text(r.stripped) then out[#out + 1] = "of the agent's own: " .. text(r.stripped) end
  if integer(r.ms) and r.decision ~= "deny" then out[#out + 1] = span(integer(r.ms)) end
  local up, down = integer(r.up) or 0, integer(r.down) or 0
  if r.decision ~= "deny" and up > 0 then out[#out + 1] = "sent " .. bytes(up) end
  if r.decision ~= "deny" and down > 0 then out[#out + 1] = "got " .. bytes(down) end
  if r.decision == "deny" and text(r.client) then out[#out + 1] = "from " .. text(r.client) end
  return table.concat(out, ", ")
end

local HEAD = { "TIME", "DECISION", "STATUS", "AGENT", "CREDENTIAL", "REQUEST" }
local WIDE = 24      -- a name that is longer moves what is behind it, and not the lines of others

--- A listing: it.row(record) -> its line. Columns become as wide as what came so far needs. paint(what, text) colours.
function M.listing(paint)
  local it, widths = {}, { 20, 8, 6, 5, 10 }
  local function cells_of(r)
    local at = report.time((integer(r.time) or -1000) // 1000)
    local cells = { at or "-", r.kind == "change" and "change" or text(r.decision) or "?", text(r.status) or "-",
      text(r.agent) or text(r.by) or "-", text(r.credential) or "-" }
    for i, c in ipairs(cells) do cells[i] = report.clean(c) end
    return cells
  end
  local function line(cells)
    local out = {}
    for i, c in ipairs(cells) do
      local shown = i == 2 and c == "deny" and paint("bad", c) or i == 3 and c:find("^[45]") and paint("warn", c) or c
      out[i] = shown .. (" "):rep(widths[i] - (utf8.len(c) or #c))
    end
    return table.concat(out, "  ")
  end

  --- Makes the columns as wide as this record needs.
  function it.fit(r)
    for i, c in ipairs(cells_of(r)) do widths[i] = math.max(widths[i], math.min(utf8.len(c) or #c, WIDE)) end
  end

  function it.head()
    local out = {}
    for i = 1, #widths do out[i] = HEAD[i] .. (" "):rep(widths[i] - #HEAD[i]) end
    return paint("head", table.concat(out, "  ") .. "  " .. HEAD[6]) .. "\n"
  end

  function it.row(r)
    it.fit(r)
    local behind = details(r)
    return line(cells_of(r)) .. "  " .. report.clean(request(r)) .. (behind ~= "" and "  (" .. report.clean(behind) .. ")" or "") .. "\n"
  end
  return it
end

return M
