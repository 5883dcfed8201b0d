--- Where a key of a policy's table stands in its text, for errors. It knows texts, comments, brackets and blocks, and no more
-- of Lua: a table that is put together by a function is not looked into.
local M = {}

-- A text's token is { "", at, its content }, all others { token, at }.
local function tokens(source)
  local list, at = {}, 1
  local function add(token, to, content)
    if token then list[#list + 1] = { token, at, content } end
    at = to + 1
  end
  local function long(from)       -- where the long bracket ends that begins there; nil: none does
    local level = source:match("^%[(=*)%[", from)
    return level and (select(2, source:find("]" .. level .. "]", from, true)) or #source), level
  end
  while true do
    at = source:find("%S", at)
    if not at then return list end
    local comment, first = source:find("^%-%-", at) ~= nil, source:sub(at, at)
    local ends, level = long(comment and at + 2 or at)
    if comment then
      add(nil, ends or (source:find("\n", at, true) or #source))
    elseif ends then
      add("", ends, source:sub(at + #level + 2, ends - #level - 2))
    elseif first == '"' or first == "'" then
      local to = at + 1
      while to <= #source and source:sub(to, to) ~= first do to = to + (source:sub(to, to) == "\\" and 2 or 1) end
      add("", to, source:sub(at + 1, to - 1))
    else
      local _, to = source:find("^[%w_]+", at)
      add(source:sub(at, to or at), to or at)
    end
  end
end

local depth_of = {
  ["{"] = 1, ["("] = 1, ["["] = 1, ["function"] = 1, ["if"] = 1, ["do"] = 1, ["repeat"] = 1,
  ["}"] = -1, [")"] = -1, ["]"] = -1, ["end"] = -1, ["until"] = -1,
}

local function is(list, i, token) return list[i] ~= nil and list[i][1] == token end

-- The table in a value: its own brace, or that of `local NAME = {` where the value is a name. nil: it is another value.
local function brace(list, value)
  if is(list, value, "{") then return value end
  local name = list[value] and list[value][1]
  if not name or not name:find("^[%a_]") then return nil end
  for i = 1, #list - 3 do
    if is(list, i, "local") and is(list, i + 1, name) and is(list, i + 2, "=") and is(list, i + 3, "{") then return i + 3 end
  end
end

-- The member of the table that opens at `open`: where its key begins, and its value. nil: it has none.
local function member(list, open, key)
  local i, n = open + 1, 0
  while list[i] and not is(list, i, "}") do
    local name, value = nil, i
    if list[i][1]:find("^[%a_]") and is(list, i + 1, "=") and not is(list, i + 2, "=") then
      name, value = list[i][1], i + 2
    elseif is(list, i, "[") and is(list, i + 1, "") and is(list, i + 2, "]") and is(list, i + 3, "=") then
      name, value = list[i + 1][3], i + 4
    else
      n = n + 1
      name = n
    end
    if name == key then return i, value end
    local depth = 0
    i = value
    while list[i] and not (depth == 0 and (is(list, i, ",") or is(list, i, ";") or is(list, i, "}"))) do
      depth = depth + (depth_of[list[i][1]] or 0)
      i = i + 1
    end
    if not is(list, i, "}") then i = i + 1 end
  end
end

--- The byte at which the key at the end of the path stands ({ "fields", 2, "secret" }), or as much of the path as can be
-- found; then whether that is all of it. nil: nothing is found.
function M.find(source, path)
  local list, depth, last, at = tokens(source), 0, #source, nil
  for i, token in ipairs(list) do
    if depth == 0 and token[1] == "return" then last = i end
    depth = depth + (depth_of[token[1]] or 0)
  end
  local open = brace(list, last + 1)
  for _, key in ipairs(path) do
    local found, value
    if open then found, value = member(list, open, key) end
    if not found then return at, false end
    at, open = list[found][2], brace(list, value)
  end
  return at, true
end

return M
