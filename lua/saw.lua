--- A request as the rule that asks about it saw it, for the person who is asked: its fields, and of its body what the rule read. It was
-- made before anything was attached, so no credential of ours is in it; what may be a key of the agent's own is left out, by the
-- field's name. Bounded, and marked where something was cut: a question has the SHA-256 of the whole body.
--
-- saw.of(seen, off, held) -> { headers = { { name, value | hidden = true, cut } … }, more_headers = number | nil, body, body_cut, members = { { name, values } … },
--   push = { text … }, more = number | nil, unread = why }. seen: rules.request's; off: names of fields that come off, as carriers.fold has them, a set;
--   held: what stands for the credential in the agent's requests, { text } each
local carriers = require "carriers"
local M = {}

local FIELDS_MAX = 3000     -- bytes of all fields,
local FIELD_MAX = 300       -- and of one value
local CONTENT_MAX = 3000    -- bytes of what was read of the body
local VALUE_MAX = 300       -- bytes of one value in it

-- Words in the name of a field that is a key, a token or a session to somebody.
local words = { "auth", "cookie", "credential", "jwt", "key", "passw", "secret", "session", "signature", "token" }
local _, known = carriers.names { carriers.headers }

local function is_key(name)
  for _, word in ipairs(words) do
    if name:find(word, 1, true) then return true end
  end
  return known[carriers.fold(name)] ~= nil
end

-- What the agent holds for the credential is worth nothing anywhere else.
local function stands_for(value, held)
  for _, h in ipairs(held) do
    if value == h.text or value:match("^%a[%w-]* +(.*)$") == h.text then return true end
  end
  return false
end

-- The beginning of a text, which ends with a whole letter, and whether there is more.
local function beginning(text, max)
  if #text <= max then return text, nil end
  while max > 0 and text:byte(max + 1) & 0xc0 == 0x80 do max = max - 1 end
  return text:sub(1, max), true
end

-- As much of a text as its share of what is left has room for, with nothing unseen, and whether it was cut | nil: nothing
local function piece(left, text, max)
  max = math.min(max, left.room)
  if max <= 0 then
    left.more = (left.more or 0) + 1
    return nil
  end
  local lines, shown, cut, more = {}, nil, nil, nil
  text, cut = beginning(text, max)
  for line in (text:gsub("\r\n", "\n") .. "\n"):gmatch("([^\n]*)\n") do lines[#lines + 1] = require("web.page").visible(line) end
  shown, more = beginning(table.concat(lines, "\n"), max)
  left.room = left.room - math.max(#shown, 1)
  return shown, cut or more
end

-- A value as JSON would write it, near enough for a person.
local function said(value)
  if value == require("json").null then return "null" end
  if type(value) == "table" then return "(an object or a list)" end
  return type(value) == "string" and '"' .. value .. '"' or tostring(value)
end

local function fields_of(seen, off, held, out)
  local left, times = { room = FIELDS_MAX }, {}
  for _, name in ipairs(seen.headers.names()) do
    times[name] = (times[name] or 0) + 1
    local value = tostring(seen.headers:get(name, times[name]))
    local hides = (off[carriers.fold(name)] or is_key(name)) and not stands_for(value, held)
    local as = piece(left, name, FIELD_MAX)
    local shown, cut
    if as and not hides then shown, cut = piece(left, value, FIELD_MAX) end
    if shown or as and hides then out.headers[#out.headers + 1] = { name = as, value = shown, hidden = hides or nil, cut = cut } end
  end
  out.more_headers = left.more
end

local function members_of(found, left)
  local names, out = {}, {}
  for name in pairs(found.values) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local values = {}
    for _, value in ipairs(found.values[name]) do
      local shown, cut = piece(left, said(value), VALUE_MAX)
      values[#values + 1] = shown and (cut and shown .. "…" or shown) or nil
    end
    out[i] = { name = name, values = require("json").array(values) }
  end
  return require("json").array(out)
end

function M.of(seen, off, held)
  local out, left = { headers = require("json").array {} }, { room = CONTENT_MAX }
  fields_of(seen, off, held, out)
  local push, found, body = rawget(seen, "pushed"), rawget(seen, "found"), rawget(seen, "body")
  if type(push) == "table" then
    out.push = require("json").array {}
    for _, c in ipairs(push.commands) do out.push[#out.push + 1] = piece(left, ("%s %s %s to %s"):format(c.kind, c.ref, c.old, c.new), VALUE_MAX) end
    for _, o in ipairs(push.options) do out.push[#out.push + 1] = piece(left, "option " .. o, VALUE_MAX) end
  end
  if type(found) == "table" then out.members = members_of(found, left) end
  if body then out.body, out.body_cut = piece(left, body, CONTENT_MAX) end
  out.unread = type(push) == "string" and push or type(found) == "string" and found or nil
  out.more = left.more
  return out
end

--- The same as lines of text, for a terminal: { what, text } each.
function M.rows(s)
  local rows = {}
  for _, h in ipairs(s.headers) do
    rows[#rows + 1] = { "field", ("%s: %s"):format(h.name, h.hidden and "(not shown: it may be a key)" or h.cut and h.value .. "… (cut)" or h.value) }
  end
  if s.more_headers then rows[#rows + 1] = { "field", ("(%d more are not shown)"):format(s.more_headers) } end
  for _, text in ipairs(s.push or {}) do rows[#rows + 1] = { "push", text } end
  for _, m in ipairs(s.members or {}) do rows[#rows + 1] = { "read", ("%s: %s"):format(m.name, m.values[1] and table.concat(m.values, ", ") or "none") } end
  for line in ((s.body or "") .. (s.body and "\n" or "")):gmatch("([^\n]*)\n") do rows[#rows + 1] = { "read", "| " .. line } end
  if s.body_cut then rows[#rows + 1] = { "read", "(the body goes on)" } end
  if s.more then rows[#rows + 1] = { "read", ("(%d more are not shown)"):format(s.more) } end
  if s.unread then rows[#rows + 1] = { "read", ("nothing: %s"):format(s.unread) } end
  return rows
end

return M
