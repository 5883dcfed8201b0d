--- JSON with comments, as editors keep their settings, so that a part is changed and the rest stays as it stands.
--
--   jsonc.parse(text) -> root | nil, why       why: a phrase behind the file's name
--   jsonc.emit(root)  -> text                  what was parsed, without the nodes that are `gone`, with those that are `new`
--
-- A node is { kind = "object" | "array" | "string" | "other", value = of a scalar, [1..n] = members or items, from, to };
-- a member or item is { name = of a member, node, gone = is it left out? }; node.new is the text in its place.
-- What is emitted is RFC 8259: comments go, for one could hold a secret that nobody looks for, and so do commas behind a
-- last member. All else, the order and the spaces among it, is the file's own.
local json = require "json"
local M = {}

-- A byte order mark goes (RFC 8259 8.1). nil, why: another encoding, or none.
local function utf_8(text)
  if text:find("^\255\254") or text:find("^\254\255") or text:find("^%z") or text:find("^[^\128-\255]%z") then
    return nil, "is UTF-16 or UTF-32, not UTF-8", "write it anew: iconv -f UTF-16 -t UTF-8 OLD > NEW"
  end
  text = text:gsub("^\239\187\191", "")
  if not utf8.len(text) then return nil, "is not UTF-8", "write it anew: iconv -f LATIN1 -t UTF-8 OLD > NEW" end
  return text
end

-- Where the string that begins at a quote ends; nil: it does not.
local function string_end(text, at)
  local c
  repeat
    at = text:find('["\\]', at + 1)
    c = at and text:sub(at, at)
    if c == "\\" then at = at + 1 end
  until c ~= "\\"
  return at
end

-- Without the spaces at its end.
local function trimmed(text)
  local at = text:reverse():find("[^ \t]")
  return at and text:sub(1, #text - at + 1) or ""
end

-- The text as strict JSON: comments are cut out, with their line where nothing else stands on it.
local function strict(text)
  local out, at = {}, 1
  local comma                                     -- where the last comma stands in `out`, while only spaces follow
  local last                                      -- the last character that counts: a comma goes behind a value alone
  local blank = true                              -- nothing but spaces and comments stands on the line so far
  while true do
    local from, to, mark = text:find('(["/,%]}])', at)
    local before = text:sub(at, (from or #text + 1) - 1)
    if before:find("%S") then comma, last = nil, before:match("(%S)%s*$") end
    out[#out + 1] = before
    local line = before:match("\n([^\n]*)$")
    blank = (line and true or blank) and not (line or before):find("[^ \t]")
    if not from then break end
    at = to + 1
    if mark == "/" then
      local kind, stop = text:sub(at, at), nil
      if kind == "/" then stop = (text:find("[\r\n]", at) or #text + 1) - 1
      elseif kind == "*" then stop = select(2, text:find("*/", at + 1, true)) end
      if not stop then                            -- no comment: the reader says where it stands
        out[#out + 1] = text:sub(from)
        break
      end
      local rest = text:match("^[ \t]*\r?\n()", stop + 1)
      local alone = rest and blank
      if rest then out[#out] = trimmed(out[#out]) else out[#out + 1] = " " end
      at = alone and rest or stop + 1
    else
      local stop = mark == '"' and string_end(text, from) or mark == '"' and #text or from
      if comma and mark:find("[%]}]") then out[comma] = "" end
      out[#out + 1] = text:sub(from, stop)
      blank = false
      comma = mark == "," and not (last or ","):find("[%[{,:]") and #out or nil
      last = mark
      at = stop + 1
    end
  end
  return table.concat(out)
end

local VALUES_MAX = 200000    -- of a file: a table each

-- A text that json.decode has taken. Positions are bytes.
local function tree(text)
  local value
  local n = 0
  local function skip(at) return text:find("[^ \t\r\n]", at) end
  function value(from)
    n = n + 1
    if n > VALUES_MAX then error("many", 0) end
    local c = text:sub(from, from)
    local node = { from = from, text = text }
    if c == "{" or c == "[" then
      node.kind = c == "{" and "object" or "array"
      local at = skip(from + 1)
      while not text:find("^[%]}]", at) do
        local kid = { from = at }
        if node.kind == "object" then
          local stop = string_end(text, at)
          kid.name = json.decode(text:sub(at, stop))
          at = skip(skip(stop + 1) + 1)
        end
        kid.node = value(at)
        kid.to = kid.node.to
        node[#node + 1] = kid
        at = skip(kid.to + 1)
        if text:sub(at, at) == "," then at = skip(at + 1) end
      end
      node.to = at
    elseif c == '"' then
      node.kind, node.to = "string", string_end(text, from)
      node.value = json.decode(text:sub(from, node.to))
    else
      node.kind, node.to = "other", select(2, text:find("^[%w.+-]+", from))
      node.value = json.decode(text:sub(from, node.to))
    end
    return node
  end
  return value(skip(1))
end

local codes = {
  malformed = "is no JSON (line %d)", duplicate = "has a member twice (line %d)", number = "has a number that is none (line %d)",
}

--- The tree of a text | nil, why, hint
function M.parse(text)
  local clean, why, hint = utf_8(text)
  if not clean then return nil, why, hint end
  local plain = strict(clean)
  local ok, code, byte = json.decode(plain)
  if ok == nil then
    local _, lines = plain:sub(1, byte - 1):gsub("\n", "")
    return nil, (codes[code] or codes.malformed):format(lines + 1)
  end
  local fine, root = pcall(tree, plain)
  if not fine and root ~= "many" then error(root, 0) end
  if not fine then return nil, ("has more than %d values"):format(VALUES_MAX) end
  return root
end

--- The node of a member that is there and stays; nil: none.
function M.get(node, name)
  for _, kid in ipairs(node and node.kind == "object" and node or {}) do
    if kid.name == name and not kid.gone then return kid.node, kid end
  end
end

--- The value of a member where it is a text.
function M.text(node, name)
  local found = M.get(node, name)
  return found and found.kind == "string" and found.value or nil
end

--- Puts a text into the place of a node.
function M.set(node, text)
  node.value, node.new = text, json.encode(text)
end

--- Is nothing left in it?
function M.empty(node)
  for _, kid in ipairs(node) do
    if not kid.gone then return false end
  end
  return true
end

--- See above.
function M.emit(node)
  if node.new then return node.new end
  local text = node.text
  if #node == 0 then return text:sub(node.from, node.to) end
  local out = { text:sub(node.from, node[1].from - 1) }
  local any = false
  for i, kid in ipairs(node) do
    if not kid.gone then
      if any then out[#out + 1] = text:sub(node[i - 1].to + 1, kid.from - 1) end
      any = true
      out[#out + 1] = text:sub(kid.from, kid.node.from - 1)
      out[#out + 1] = M.emit(kid.node)
    end
  end
  if not any then return node.kind == "object" and "{}" or "[]" end
  out[#out + 1] = text:sub(node[#node].to + 1, node.to)
  return table.concat(out)
end

--- All of the file: what stands before and behind the root, too.
function M.file(root)
  return root.text:sub(1, root.from - 1) .. M.emit(root) .. root.text:sub(root.to + 1)
end

return M
