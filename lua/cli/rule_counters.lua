--- The counters of rules as they stand: for `rule show`, `rule list` and `rule counters`, the page and the API.
-- What a rule counts, its type says (`counters`); whom it counts for is looked up in the store; how far each came, the server says on its
-- control socket, for its workers alone share them (web.control). Without a server there are those that are kept.
local control, report = require "cli.control_client", require "cli.report"
local db, policy = require "cli.db", require "policy"
local M = {}

local SHOWN = 20            -- counters of a rule, those nearest to their limit first
local LOOKED = 1000         -- that are asked about for one rule, and
local LOOKED_ALL = 4000     -- for all that are listed at once
local ASKED = 100           -- in one request: within the body that the control socket takes
local WAIT_MS = 2000        -- for all answers together: the page's process waits
local KEY_MAX = 200         -- bytes of a counter's key, as rules.lua has it

-- ---- whom a rule counts for --------------------------------------------------------------------------

-- The agents and credentials of each bundle: { agent = { [bundle] = records }, credential = the same }
local function holders()
  local out = { agent = {}, credential = {} }
  local function add(kind, record)
    for _, b in ipairs(record.bundles or {}) do
      local list = out[kind][b] or {}
      out[kind][b], list[#list + 1] = list, record
    end
  end
  for _, a in db.each("agent", "a/") do
    if a and not a.revoked then add("agent", a) end
  end
  for _, c in db.each("credential", "") do
    if c then add("credential", c) end
  end
  return out
end

-- What stands in a bundle: { agent = { names }, credential = { names }, host = { names }, wild = { hosts of which there are any number } }
local function held_by(bundle, holds)
  local out = { agent = {}, credential = {}, host = {}, wild = {}, all = { "*" } }
  local seen, open = {}, false
  local function host(h)
    if seen[h] then return end
    seen[h] = true
    local to = (h:find("*", 1, true) or h:find("${", 1, true)) and out.wild or out.host
    to[#to + 1] = h
  end
  for _, a in ipairs(holds.agent[bundle] or {}) do out.agent[#out.agent + 1] = a.name end
  for _, c in ipairs(holds.credential[bundle] or {}) do
    out.credential[#out.credential + 1] = c.name
    for _, h in ipairs(c.hosts or {}) do host(h) end
  end
  for _, d in db.each("bundle", bundle .. "/") do
    if d then host(d.host) open = true end
  end
  if open then out.credential[#out.credential + 1] = "" end     -- what goes out without one
  return out
end

-- The hosts of its bundle that a rule is asked about.
local function hosts_of(rule, held)
  if not rule.hosts then return held.host, held.wild end
  local variables, out, wild, seen = require "variables", {}, {}, {}
  for _, h in ipairs(rule.hosts) do
    local exact = not h:find("*", 1, true) and not h:find("${", 1, true)
    if exact and not seen[h] then out[#out + 1], seen[h] = h, true end
    if not exact then
      wild[#wild + 1] = h
      for _, known in ipairs(held.host) do
        if not seen[known] and (h == "*" or variables.covers(h, known)) then out[#out + 1], seen[known] = known, true end
      end
    end
  end
  return out, wild
end

local function key_for(pattern, who)
  local at, to = pattern:find("{}", 1, true)
  return at and pattern:sub(1, at - 1) .. who .. pattern:sub(to + 1) or pattern
end

-- The counters of a rule, as yet without what they have: { { row =, of = name | nil, key =, held = key | nil } … }, how many are not looked at,
-- the hosts that cannot be listed | nil, why
local function candidates(row, most, known)
  local rule = row.rule
  local pol, why = require("policy_store").load(rule.type)
  if not pol then return nil, why end
  local rows
  rows, why = policy.counters(pol, require("config").freeze(policy.view(pol, rule.fields or {})), require("sandbox").call)
  if not rows then return nil, why end
  local out, left, wild = {}, 0, nil
  for _, r in ipairs(rows) do
    known.holds = known.holds or holders()
    known.of[row.bundle] = known.of[row.bundle] or held_by(row.bundle, known.holds)
    local names = known.of[row.bundle][r.per]
    if r.per == "host" then names, wild = hosts_of(rule, known.of[row.bundle]) end
    for _, name in ipairs(names) do
      local key, held = key_for(r.key, name), r.held and key_for(r.held, name)
      if #out >= most then left = left + 1
      elseif #key <= KEY_MAX and #(held or "") <= KEY_MAX then
        out[#out + 1] = { row = r, of = r.per ~= "all" and name or nil, key = key, held = held }
      end
    end
  end
  return out, left, wild and wild[1] and wild or nil
end

-- ---- how far they came -------------------------------------------------------------------------------

-- The server's word for each of these: { { name, window, kept } … } -> { count … }, { when its window ends … } | nil, why
local function ask(ctx, list)
  if not ctx.host.lock_held(ctx.home) then return nil, "no server runs" end
  local path = control.path(ctx)
  if not path then return nil, "the server has no control socket" end
  local till, now = require("time").now() + WAIT_MS, require("time").now
  local fd, why = control.open(path, WAIT_MS)
  if not fd then return nil, ("cannot use %s: %s"):format(path, why) end
  local counts, ends = {}, {}
  for from = 1, #list, ASKED do
    local part, object = report.array(table.move(list, from, math.min(from + ASKED - 1, #list), 1, {})), nil
    object, why = control.request(fd, "POST", "/counters", { store = require("counters").store(), counters = part }, nil, math.max(till - now(), 1))
    local right = object and type(object.counts) == "table" and type(object.ends) == "table" and #object.counts == #part and #object.ends == #part
    if not right then
      counts, why = nil, why or "the server does not answer as this version does"
      break
    end
    table.move(object.counts, 1, #part, #counts + 1, counts)
    table.move(object.ends, 1, #part, #ends + 1, ends)
  end
  require("jail").call("close", fd)
  return counts, counts and ends or why
end

-- What the store keeps of them; nil of those that are not kept.
local function from_store(list)
  local counters, counts, ends = require "counters", {}, {}
  for i, c in ipairs(list) do
    if c[3] then counts[i], ends[i] = counters.kept(c[1], c[2]) end
  end
  return counts, ends
end

local function scaled(n, scale) return scale > 1 and n / scale or n end

-- One counter, as JSON has it. n, held: what was counted, and what of it is in flight; nil: nobody knows.
-- n = -1: the server counts no more of them, so that its rule refuses what it would count.
local function told(c, n, held, ends)
  local r, out = c.row, {}
  if n == -1 then n, out.state = nil, "unknown" end
  out.label, out.of, out.unit, out.kept, out.ends_at = r.label, c.of, r.unit, r.kept, ends
  out.window = tostring(r.window)
  out.limit = r.limit and scaled(r.limit, r.scale) or nil
  if not n then return out end
  -- limit() counts what it refuses, too
  if r.limit and not r.unit and n > r.limit then out.refused, n = n - r.limit, r.limit end
  out.reserved = held and scaled(math.min(held, n), r.scale) or nil
  out.count = scaled(n - (held and math.min(held, n) or 0), r.scale)
  out.state = not r.limit and "open" or n >= r.limit and "reached" or r.warn and n >= r.warn and "near" or "open"
  return out, r.limit and n / math.max(r.limit, 1) or 0, n
end

--- The counters of these rules ({ bundle, rule, place } each): { { rule, bundle, type, counters = { … }, more = n | nil, note = text | nil } … }, and why
-- the server was not asked | nil.
function M.of(ctx, rows)
  local out, known, list, looked = {}, { of = {} }, {}, 0
  for i, row in ipairs(rows) do
    local of, left, wild = candidates(row, math.min(LOOKED, math.max(LOOKED_ALL - looked, 0)), known)
    out[i] = { rule = row.rule.name, bundle = row.bundle, type = row.rule.type, counters = report.array(), of = of or {},
      more = of and left > 0 and left or nil, note = not of and left or wild and ("hosts below %s are counted, and not listed"):format(table.concat(wild, ", ")) or nil }
    looked = looked + #out[i].of
    for _, c in ipairs(out[i].of) do
      local begins = row.bundle .. "/" .. row.rule.name .. "\n"        -- as rules.lua has it
      list[#list + 1] = report.array { begins .. c.key, c.row.window, c.row.kept, c.row.per == "agent" and c.of or nil }
      c.at = #list
      if c.held then
        list[#list + 1] = report.array { begins .. c.held, c.row.window, false }
        c.held_at = #list
      end
    end
  end
  local counts, ends, silent = {}, {}, nil
  if list[1] then
    counts, ends = ask(ctx, list)
    if not counts then
      silent = ends
      counts, ends = from_store(list)
    end
  end
  for _, o in ipairs(out) do
    local all = {}
    for i, c in ipairs(o.of) do
      local one, part, n = told(c, counts[c.at], c.held_at and counts[c.held_at], ends[c.at])
      all[i] = { one, part or -1, n or -1, i }
    end
    table.sort(all, function(a, b)
      if a[2] ~= b[2] then return a[2] > b[2] end
      if a[3] ~= b[3] then return a[3] > b[3] end
      return a[4] < b[4]
    end)
    for i, a in ipairs(all) do
      if i <= SHOWN then o.counters[i] = a[1] end
    end
    if #all > SHOWN then o.more = (o.more or 0) + #all - SHOWN end
    o.of = nil
  end
  return out, silent
end

-- ---- in words ----------------------------------------------------------------------------------------

local function amount(n, unit)
  local text = math.type(n) == "float" and ("%.2f"):format(n) or tostring(n)
  return unit == "USD" and "$" .. text or text
end

--- In which time: "1m", "a day".
function M.window(c)
  local n = math.tointeger(tonumber(c.window))
  return n and require("records").span(n) or "a " .. c.window
end

--- A counter in words: "59 of 60 requests, 3 refused"; with `within`: "59 of 60 requests in 1m, 3 refused".
function M.said(c, within)
  local unit = c.unit == "USD" and "" or " " .. (c.unit or c.label)
  local text = c.state == "unknown" and ("unknown%s%s"):format(c.limit and (" of %s"):format(amount(c.limit, c.unit)) or "", unit) or not c.count and (c.limit and ("at most %s%s"):format(amount(c.limit, c.unit), unit) or c.label)
    or c.limit and ("%s of %s%s"):format(amount(c.count, c.unit), amount(c.limit, c.unit), unit) or amount(c.count, c.unit) .. unit
  if within then text = ("%s in %s"):format(text, M.window(c)) end
  if c.reserved and c.reserved > 0 then text = ("%s, %s reserved"):format(text, amount(c.reserved, c.unit)) end
  if c.refused then text = ("%s, %d refused"):format(text, c.refused) end
  if c.state == "unknown" then text = text .. ": no room for another counter" end
  return text .. (c.state == "near" and ", near its limit" or "")
end

return M
