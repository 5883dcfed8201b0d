--- Rows: the sandbox writes a placeholder somewhere in a request, and the secret goes out in its place.
-- A credential of any type may have some. In its record: rows = { { field = "value" | "values.KEY" | "access_token",
-- place = { "header", … }, placeholder = literal or nil: what the agent holds for that field }… }.
local M = {}

local ROWS_MAX = 16          -- of a credential, as in proxy.c
local LITERAL_MIN = 8        -- a shorter word turns up where nobody meant it
local LITERAL_MAX = 256
M.BODY_MAX = 1 << 20         -- bytes of a body that is read whole for a row

local place_names = { "header", "query", "path", "body", "websocket" }

local function read_places(text)
  local list, seen = {}, {}
  for word in text:gmatch("[^,]+") do
    local known = false
    for _, name in ipairs(place_names) do known = known or name == word end
    if not known then
      local near = require("records").nearest(word, place_names)
      return nil, ("a placeholder stands in %s%s"):format(table.concat(place_names, ", "),
        near and ("; did you mean %s?"):format(near) or "")
    end
    if not seen[word] then
      seen[word] = true
      list[#list + 1] = word
    end
  end
  if #list == 0 then return nil, "it names no place: " .. table.concat(place_names, ", ") end
  return list
end

--- "FIELD:PLACE[,PLACE…][:PLACEHOLDER]" -> row | nil, why
function M.parse(text)
  local field, places, literal = text:match("^([%a_][%w_]*):([^:]*):?(.*)$")
  if not field then field, places, literal = text:match("^([%a_][%w_]*%.[^:]+):([^:]*):?(.*)$") end
  if not field then return nil, "it is FIELD:PLACE[,PLACE…][:PLACEHOLDER]: token:path, password:header,body:__PASSWORD__" end
  local list, why = read_places(places)
  if not list then return nil, why end
  if literal == "" then return { field = field, place = list } end
  if #literal < LITERAL_MIN or #literal > LITERAL_MAX then
    return nil, ("a placeholder has from %d to %d characters"):format(LITERAL_MIN, LITERAL_MAX)
  end
  if literal:find("[^%w._:/+=@~{}$<>-]") then
    return nil, "a placeholder is letters, digits and . _ : / + = @ ~ { } $ < > -"
  end
  return { field = field, place = list, placeholder = literal }
end

-- Is this one of the type's secrets? Its sealed name, or false for the token that `refresh` brings; nil, why.
local function sealed_of(pol, field)
  if field == "access_token" and pol.refresh and not pol.by_name.access_token then return false end
  local name, member = field:match("^([^.]+)%.?(.*)$")
  local spec = pol.by_name[name]
  local names = {}
  for _, f in ipairs(pol.fields) do
    if f.secret then names[#names + 1] = f.type == "map" and f.name .. ".KEY" or f.name end
    for part, how in pairs(f.split or {}) do
      if how.secret then names[#names + 1] = f.name .. "." .. part end
    end
  end
  if pol.refresh then names[#names + 1] = "access_token" end
  table.sort(names)
  local inner = spec and (spec.secret and spec.type == "map" or spec.split and spec.split[member] and spec.split[member].secret)
  if not spec or not (inner or spec.secret and spec.type ~= "map") or (member ~= "") ~= (inner or false) then
    return nil, ("'%s' is no secret of %s: it has %s"):format(field, pol.name, table.concat(names, ", "))
  end
  return "f/" .. name .. (inner and "/" .. member or "")
end

--- Do these rows fit the credential? `has(sealed)` says whether a secret is set, `held` whether agents get a
-- placeholder of their own. true | nil, why
function M.check(rows, pol, has, held)
  if not rows or #rows == 0 then
    if pol.rows then return nil, ("%s is nothing without a row: --substitute FIELD:PLACE"):format(pol.name) end
    return true
  end
  if #rows > ROWS_MAX then return nil, ("more than %d rows"):format(ROWS_MAX) end
  for _, row in ipairs(rows) do
    local sealed, why = sealed_of(pol, row.field)
    if sealed == nil then return nil, why end
    if sealed and not has(sealed) then return nil, ("the secret %s is not set"):format(row.field) end
    if not row.placeholder and not held then
      return nil, ("%s: name the variable that holds its placeholder (env=NAME), or write one: %s:%s:__%s__"):format(
        row.field, row.field, table.concat(row.place, ","), row.field:upper():gsub("[^%w]", "_"))
    end
  end
  return true
end

--- As the pipeline uses them: { { field, placeholder, secret | token, mask }… }, the places of all together | nil,
-- where there are none. `places`: C's words (request.places).
function M.compile(rec, pol, places)
  if not rec.rows or #rec.rows == 0 then return nil end
  local out, all = {}, 0
  for _, row in ipairs(rec.rows) do
    local mask, sealed = 0, sealed_of(pol, row.field)
    for _, name in ipairs(row.place) do mask = mask | places[name] end
    all = all | mask
    if sealed ~= nil then
      out[#out + 1] = {
        field = row.field, placeholder = row.placeholder, mask = mask, token = sealed == false and row.field or nil,
        secret = sealed and rec.secrets and rec.secrets[sealed] or nil,
      }
    end
  end
  return out, all
end

--- The texts that stand for a field: the row's own, else what the agent holds for the field, else for the credential;
-- beside them what an SDK was given for a token (`also`).
-- held = { { text, field, also }… }
function M.texts(row, held)
  local own, any, also = {}, {}, {}
  for _, h in ipairs(held) do
    if h.also then
      if h.field == row.field then also[#also + 1] = h.text end
    elseif h.field == row.field then own[#own + 1] = h.text
    elseif not h.field and #any == 0 then any[1] = h.text   -- the first: further ones stand for other fields
    end
  end
  local out = row.placeholder and { row.placeholder } or #own > 0 and own or any
  return table.move(also, 1, #also, #out + 1, out)
end

--- For a listing: "value in path as __TOKEN__".
function M.spoken(row)
  return ("%s in %s%s"):format(row.field, table.concat(row.place, ", "), row.placeholder and " as " .. row.placeholder or "")
end

return M
