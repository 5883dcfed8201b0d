--- What rules declare to read of a body (`reader`, `members`), read as it streams, at constant memory: the values that stand at paths
-- in JSON, the fields of a form, the names of multipart's parts. What two servers could read in different ways is unreadable, and
-- the rule is told so.
--
-- reading.new(kind, members [, boundary]) -> reader. kind: "json" | "form" | "multipart"; members: { "to", "message.*.to" … }
-- reader:feed(text, last) -> true: go on | nil, why: it cannot be read. last: nothing comes behind `text`
-- reader.done: a server may act on what it has by now: what the rules read has come, and nothing of it can come any more
-- reader.values: { [member] = { value … } }. A value is a text, a number, a boolean or json.null; {} stands for any other
--
-- reading.whole(reader, text, pause): reads a body that is there. pause(): others have a turn
-- reading.late(req, reader, ask): of a body that is too long to be held until rules have spoken, each piece is read before it goes on,
-- and the one in which reader.done comes true goes on where ask(why) answers nothing; else it answers code, message, hint, options.
-- reading.settle(req, time) -> the same answers, at once: the whole body is there after all
local lpeg = require "lpeg"
local decode, null = require("json.core").decode, require("json.core").null
local M = {}

M.HOLD = 64 << 10           -- bytes of a body that are held until its rules have spoken, where they declare no `body`
M.TURN = 64 << 10           -- bytes that are read in one turn
local VALUE_MAX = 4096      -- bytes of a value that is wanted, as it is written
local NAME_MAX = 1024       -- bytes of a name, as it is written, where one is looked for
local VALUES_MAX = 1000     -- values of all members
local BYTES_MAX = 64 << 10  -- and their bytes
local DEPTH_MAX = 64        -- as json.core takes it
local NUMBER_MAX = 128
local FOLDED_MAX = 200      -- names that are known as they are written

-- ---- members ---------------------------------------------------------------------------------------

-- A name as the laxest server compares it: Go folds two letters from outside ASCII, what keeps C strings ends at a NUL.
local function fold(name)
  name = name:gsub("%z.*$", "")
  return (name:gsub("\u{17f}", "s"):gsub("\u{212a}", "k"):lower())
end

local function steps_of(path)
  local out = {}
  for step in (path .. "."):gmatch("([^.]*)%.") do out[#out + 1] = step end
  return out
end

local trees, trees_n = {}, 0    -- of members that were looked for before
local TREES_MAX = 100

-- A tree of steps: { names = { [folded name] = node }, star = node, paths = { the members that end here } | nil }
local function tree(members)
  local key = table.concat(members, "\n")
  if trees[key] then return trees[key] end
  local root = { names = {} }
  for _, path in ipairs(members) do
    local node = root
    for _, step in ipairs(steps_of(path)) do
      local old = step == "*" and node.star or step ~= "*" and node.names[fold(step)]
      local new = old or { names = {} }
      if step == "*" then node.star = new else node.names[fold(step)] = new end
      node = new
    end
    node.paths = node.paths or {}
    node.paths[#node.paths + 1] = not node.paths[path] and path or nil      -- two rules may look for one member
    node.paths[path] = true
  end
  if trees_n >= TREES_MAX then trees, trees_n = {}, 0 end
  trees[key], trees_n = root, trees_n + 1
  return root
end

-- The nodes one step below these; name: folded, false: an element of a list. nil: none
local function below(nodes, name)
  local out
  for _, node in ipairs(nodes) do
    local one = name and node.names[name]
    if one then
      out = out or {}
      out[#out + 1] = one
    end
    if node.star then
      out = out or {}
      out[#out + 1] = node.star
    end
  end
  return out
end

local function ends(nodes)
  for _, node in ipairs(nodes or {}) do
    if node.paths then return true end
  end
  return false
end

local Reader = {}
Reader.__index = Reader

function Reader:fail(why)
  self.why = why
  return nil, why
end

function Reader:keep(nodes, value)
  for _, node in ipairs(nodes or {}) do
    for _, path in ipairs(node.paths or {}) do
      local list = self.values[path] or {}
      self.values[path] = list
      list[#list + 1] = value
      self.count = self.count + 1
      self.bytes = self.bytes + (type(value) == "string" and #value or 8)
    end
  end
  if self.count > VALUES_MAX or self.bytes > BYTES_MAX then return self:fail("the body has more of the members that are looked for than are read") end
  return true
end

-- ---- JSON (RFC 8259) -------------------------------------------------------------------------------

local P, R, S = lpeg.P, lpeg.R, lpeg.S
local hex, tail = R("09", "af", "AF"), R "\128\191"
local plain = R(" !", "#[", "]\127")
local many = R "\194\223" * tail + P "\224" * R "\160\191" * tail + (R("\225\236", "\238\239")) * tail * tail + P "\237" * R "\128\159" * tail
  + P "\240" * R "\144\191" * tail * tail + R "\241\243" * tail * tail * tail + P "\244" * R "\128\143" * tail * tail
local escape = P "\\" * (S '"\\/bfnrt' + P "u" * ((hex - S "dD") * hex * hex * hex + S "dD" * R "07" * hex * hex
  + S "dD" * S "89abAB" * hex * hex * P "\\u" * S "dD" * S "cdefCDEF" * hex * hex))
local chars = (plain ^ 1 + many + escape) ^ 0
local CHAR_MAX = 12         -- bytes of the longest of them: two escapes
local digits = R "09" ^ 1
local number = P "-" ^ -1 * (P "0" + R "19" * R "09" ^ 0) * (P "." * digits) ^ -1 * (S "eE" * S "+-" ^ -1 * digits) ^ -1
local word = P "true" + "false" + "null"
local scalar = (number + word) * -1
-- What nobody looks for is read many tokens at a time: only what lies whole in the piece, with the comma behind it.
local space = S " \t\r\n" ^ 0
-- (Values are nested so deep at most; what is deeper is read token by token.)
local DEEP = 6
local whole = P '"' * chars * P '"'
local function nested(list)
  local rules = { list, plain = whole + number + word, v0 = lpeg.V "plain" }
  for i = 1, DEEP do
    local v = lpeg.V("v" .. i - 1)
    local pair = space * whole * space * P ":" * space * v * space
    rules["v" .. i] = lpeg.V "plain" + P "{" * (pair * (P "," * pair) ^ 0 + space) * P "}" + P "[" * (space * v * space * (P "," * space * v * space) ^ 0 + space) * P "]"
  end
  return P(rules)
end
local deepest = lpeg.V("v" .. DEEP)
local elements = nested((space * deepest * space * P ",") ^ 0)
local unwanted = nested(space * deepest * space * #S ",}")
local pairs_of = nested((space * whole * space * P ":" * space * deepest * space * P ",") ^ 0)

-- What comes next. OPEN: as the one before, or the end of what has just begun.
local VALUE, VALUE_OPEN, KEY, KEY_OPEN, COLON, COMMA, END = 1, 2, 3, 4, 5, 6, 7

local Json = setmetatable({}, { __index = Reader })
Json.__index = Json

local function new_json(members)
  return setmetatable({ want = VALUE, stack = {}, root = tree(members), carry = "" }, Json)
end

local MALFORMED = "the body is no JSON that all servers read alike"

-- The nodes of the value that comes, and those of the list around it, whose elements are values of its members.
function Json:place()
  local frame = self.frame
  if not frame then return { self.root }, nil end
  if frame.list then
    frame.empty = false
    return frame.nodes and below(frame.nodes, false), frame.list_nodes
  end
  return frame.nodes and below(frame.nodes, frame.key), nil
end

function Json:ended()
  if #self.stack == 0 then
    self.want, self.done = END, true
  else
    self.want = COMMA
  end
  return true
end

function Json:scalar(nodes, list_nodes, is)
  if not (self:keep(nodes, is) and self:keep(list_nodes, is)) then return nil end
  return self:ended()
end

function Json:open(is_list)
  if #self.stack >= DEPTH_MAX then return self:fail("the body is nested too deep") end
  local nodes, list_nodes = self:place()
  if not self:keep(list_nodes, {}) or not is_list and not self:keep(nodes, {}) then return nil end
  self.frame = { list = is_list, nodes = nodes, list_nodes = is_list and ends(nodes) and nodes or nil, empty = true, seen = {} }
  self.stack[#self.stack + 1] = self.frame
  self.want = is_list and VALUE_OPEN or KEY_OPEN
  return true
end

function Json:close()
  local frame = self.frame
  if frame.list and frame.empty and frame.list_nodes and not self:keep(frame.list_nodes, {}) then return nil end
  self.stack[#self.stack] = nil
  self.frame = self.stack[#self.stack]
  return self:ended()
end

local LONG_NAME, LONG_VALUE = "the body has a name that is too long", "a member that is looked for is too long"

-- A string begins: is its text wanted?
function Json:begin_string(is_key)
  self.is_key, self.text, self.text_n = is_key, nil, 0
  if is_key then
    if self.frame.nodes then self.text = "" end
  else
    self.nodes, self.list_nodes = self:place()
    if ends(self.nodes) or self.list_nodes then self.text = "" end
  end
end

function Json:more_string(text)
  self.text_n = self.text_n + #text
  if self.text_n > (self.is_key and NAME_MAX or VALUE_MAX) then return self:fail(self.is_key and LONG_NAME or LONG_VALUE) end
  self.text = self.text .. text
  return true
end

local folded, folded_n = {}, 0

-- A name where some are looked for.
function Json:name(raw)
  local frame, key = self.frame, folded[raw]
  if not key then
    key = fold(raw:find("\\", 1, true) and decode('"' .. raw .. '"') or raw)
    if folded_n >= FOLDED_MAX then folded, folded_n = {}, 0 end
    folded[raw], folded_n = key, folded_n + 1
  end
  frame.key = key
  for _, node in ipairs(frame.nodes) do
    if node.names[key] then
      if frame.seen[key] then return self:fail("the body has a member twice") end
      frame.seen[key] = true
    end
  end
  return true
end

function Json:end_string()
  local text = self.text
  self.in_string, self.text = false, nil
  if self.is_key then
    self.want = COLON
    return not text or self:name(text)
  end
  if text and text:find("\\", 1, true) then text = decode('"' .. text .. '"') end
  return self:scalar(self.nodes, self.list_nodes, text)
end

-- A string at `i`, of which the piece may end: the next index | nil
function Json:string(s, i, is_key)
  self:begin_string(is_key)
  local j = whole:match(s, i)
  if not j then
    self.in_string = true
    return i + 1
  end
  if self.text and not self:more_string(s:sub(i + 1, j - 2)) then return nil end
  return self:end_string() and j
end

-- Reads the token at `i`. The next index | false: it is not all there | nil: unreadable
function Json:token(s, i, last)
  local b, want, frame = s:byte(i), self.want, self.frame
  if want == COMMA and b == 44 then
    self.want = frame.list and VALUE or KEY
    return i + 1
  elseif want == COLON and b == 58 then
    self.want = VALUE
    if not frame.nodes or below(frame.nodes, frame.key) then return i + 1 end
    local j = #self.stack + DEEP <= DEPTH_MAX and unwanted:match(s, i + 1)
    if j then self.want = COMMA end
    return j or i + 1
  elseif b == 125 and (want == KEY_OPEN or want == COMMA and not frame.list) or b == 93 and (want == VALUE_OPEN or want == COMMA and frame.list) then
    return self:close() and i + 1
  elseif (want == KEY or want == KEY_OPEN) and b == 34 then
    return self:string(s, i, true)
  elseif want ~= VALUE and want ~= VALUE_OPEN then
    return self:fail(MALFORMED)
  elseif b == 34 then
    return self:string(s, i, false)
  elseif b == 123 or b == 91 then
    return self:open(b == 91) and i + 1
  end
  local stop = s:find("[^%w.+-]", i)
  if not stop and not last and #s - i < NUMBER_MAX then return false end
  local text = s:sub(i, stop and stop - 1 or -1)
  if #text > NUMBER_MAX or not scalar:match(text) then return self:fail(MALFORMED) end
  local nodes, list_nodes = self:place()
  local is = nil
  if ends(nodes) or list_nodes then
    is = decode(text)
    if is == nil then return self:fail("a number in the body is out of range") end
  end
  return self:scalar(nodes, list_nodes, is) and i + #text
end

function Json:feed(text, last)
  if self.why then return nil, self.why end
  local s, i = self.carry ~= "" and self.carry .. text or text, 1
  self.carry = ""
  while i <= #s do
    if self.in_string then
      local j = chars:match(s, i)
      if self.text and not self:more_string(s:sub(i, j - 1)) then return nil, self.why end
      if s:byte(j) == 34 then
        if not self:end_string() then return nil, self.why end
        i = j + 1
      elseif not last and #s - j + 1 < CHAR_MAX then
        self.carry = s:sub(j)
        break
      else
        return self:fail(MALFORMED)
      end
    else
      local frame = self.frame
      if frame and not frame.nodes and not frame.list_nodes and #self.stack + DEEP <= DEPTH_MAX then
        local j = frame.list and (self.want == VALUE or self.want == VALUE_OPEN) and elements:match(s, i)
          or not frame.list and (self.want == KEY or self.want == KEY_OPEN) and pairs_of:match(s, i) or i
        if j > i then self.want, i = frame.list and VALUE or KEY, j end
      end
      i = s:find("[^ \t\r\n]", i)
      if not i then break end
      local j = self:token(s, i, last)
      if j == nil then return nil, self.why end
      if not j then
        self.carry = s:sub(i)
        break
      end
      i = j
    end
  end
  if last and not self.done then return self:fail(MALFORMED) end
  return true
end

-- ---- forms (WHATWG URL 5.1) ------------------------------------------------------------------------

local PAIR_MAX = NAME_MAX + 3 * VALUE_MAX
local Form = setmetatable({}, { __index = Reader })
Form.__index = Form

local function new_form(members)
  local single = {}
  for _, path in ipairs(members) do
    if not path:find("[.*]") then single[#single + 1] = path end
  end
  return setmetatable({ root = tree(members), members = members, single = single, carry = "" }, Form)
end

local PARTED = "servers part this form in different ways"

local function percent(text)
  text = text:gsub("%+", " ")
  if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  return (text:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end))
end

local QS, SPRING = "%[[^%[%]]*%]", "%b[]"       -- brackets that are whole

-- What is in whole brackets, and stands before the first of them: qs and Spring drop what is between and behind.
local function bracketed(text, whole, out)
  local at = text:find(whole)
  if at ~= 1 then out[#out + 1] = text:sub(1, (at or #text + 1) - 1) end
  for step in text:gmatch(whole) do out[#out + 1] = step:sub(2, -2) end
  return out
end

-- The paths, as lists of steps, that a name stands for with some server. Dots are borders to some, within brackets, too.
local function paths_of(name)
  name = name:gsub("^[ \t\r\n]+", "")
  if not name:find("[%[%]. ]") then return { { name } } end
  local out = {}
  local function add(steps)
    local parted = {}
    for _, step in ipairs(steps) do
      for _, one in ipairs(steps_of(step)) do parted[#parted + 1] = one end
    end
    out[#out + 1] = steps
    if #parted > #steps then out[#out + 1] = parted end
  end
  add { name }
  -- PHP: "_" for dots and spaces before the first bracket; brackets have to follow each other, and one that does not end is "_"
  local first, at = name:match("^([^%[]*)()")
  local php = { (first:gsub("[. ]", "_")) }
  while at <= #name do
    local index, behind = name:match("^%[([^%]]*)%]()", at)
    if not index then break end
    php[#php + 1], at = index, behind
  end
  if not php[2] and at <= #name then php[1] = php[1] .. "_" .. name:sub(at + 1):gsub("[. %[]", "_") end
  add(php)
  if not name:find("[%[%]]") then return out end
  -- Rack 3: the same, what is behind the brackets is one step more
  local from = name:find("[", 2, true) or #name + 1
  local rack3 = { name:sub(1, from - 1) }
  while from <= #name do
    local index, behind = name:match("^%[([^%]]*)%]()", from)
    rack3[#rack3 + 1], from = index or name:sub(from), behind or #name + 1
  end
  add(rack3)
  -- before that: any brackets are borders; [] is an element to some of its releases
  local rack, listed = {}, {}
  for step in name:gmatch("[^%[%]]+") do rack[#rack + 1] = step end
  for step in name:gsub("[%[%]]*%[%][%[%]]*", "[\0]"):gmatch("[^%[%]]+") do listed[#listed + 1] = step end
  add(rack)
  add(listed)
  add(bracketed(name, QS, {}))
  -- Spring: dots outside brackets alone, and no quotes within
  local spring = {}
  for _, piece in ipairs(steps_of((name:gsub(SPRING, function(g) return (g:gsub("%.", "\1")) end)))) do bracketed(piece, SPRING, spring) end
  for i, step in ipairs(spring) do
    spring[i] = step:gsub("\1", "."):gsub("^([\"'])(.*)%1$", "%2")
  end
  add(spring)
  return out
end

--- May a server find the member, or a part of it, under this name of a form or of a query?
function M.named(member, name)
  local steps = steps_of(member)
  for i, step in ipairs(steps) do steps[i] = fold(step) end
  for _, given in ipairs(paths_of(name)) do
    local i = 1
    while steps[i] and given[i] and (steps[i] == "*" or steps[i] == fold(given[i])) do i = i + 1 end
    if not steps[i] then return true end
  end
  return false
end

-- The nodes of the members that some server may find under this name, those of one step as request.form_names has them, too.
local function nodes_of(self, name, ...)
  local out, raws = {}, { ... }
  for _, path in ipairs(paths_of(name)) do
    local nodes = { self.root }
    for _, step in ipairs(path) do
      nodes = below(nodes, fold(step))
      if not nodes then break end
      for _, node in ipairs(nodes) do
        if node.paths then out[node] = true end
      end
    end
  end
  for _, path in ipairs(self.single) do
    for _, text in ipairs(raws) do
      if require("request").form_names(text, { path }) then out[self.root.names[fold(path)]] = true end
    end
  end
  local list = {}
  for node in pairs(out) do list[#list + 1] = node end
  return list
end

-- One pair. whole: `raw` is all of it; else its value is too long to be read.
function Form:pair(raw, whole)
  if raw == "" then return true end
  local name, given = raw:match("^([^=]*)=(.*)$")
  name, given = name or raw, given or ""
  if #name > NAME_MAX then return self:fail("the body has a name that is too long") end
  local plain_name = percent(name)
  if not plain_name or raw:find("%c") then return self:fail("the form is malformed") end
  for piece in (raw:find(";", 1, true) and raw or ""):gmatch("[^;]+") do       -- what stands between ";" is a pair of its own to some
    piece = piece:match("^[^=]*")
    local hidden = whole and #piece <= NAME_MAX and percent(piece)
    if not hidden or nodes_of(self, hidden, piece .. "=")[1] then return self:fail(PARTED) end
  end
  local nodes = nodes_of(self, plain_name, name .. "=")
  if not nodes[1] then return true end
  if raw:find(";", 1, true) then return self:fail(PARTED) end
  local text = whole and #given <= 3 * VALUE_MAX and percent(given)
  if not whole or #given > 3 * VALUE_MAX then return self:fail("a member that is looked for is too long") end
  if not text or not utf8.len(text) then return self:fail("the form is malformed") end
  return self:keep(nodes, text)
end

function Form:feed(text, last)
  if self.why then return nil, self.why end
  local s, i = self.carry .. text, 1
  self.carry = ""
  local first = not self.begun and s:match("^[\239\187\191%s]*(.)")
  self.begun = self.begun or first ~= nil
  if first == "{" or first == "[" then return self:fail("it is sent as a form, and is JSON to servers that do not look") end
  while true do
    local stop = s:find("&", i, true)
    if self.skipping then                       -- the rest of a long value that nobody looks for
      local piece = s:sub(i, stop and stop - 1 or -1)
      if piece:find("[%c;]") then return self:fail(PARTED) end
      if not stop then break end
      self.skipping = false
    elseif stop or last then
      if not self:pair(s:sub(i, stop and stop - 1 or -1), true) then return nil, self.why end
      if not stop then break end
    elseif #s - i + 1 > PAIR_MAX then
      if not self:pair(s:sub(i), false) then return nil, self.why end
      self.skipping = true
      break
    else
      self.carry = s:sub(i)
      break
    end
    i = stop + 1
  end
  self.done = last == true
  return true
end

-- ---- multipart (RFC 2046 5.1, RFC 7578) ------------------------------------------------------------

local HEAD_MAX = 8192       -- bytes of one part's head, and of all
local HEADS_MAX = 256 << 10
local PARTS_MAX = 1000
local EPILOGUE_MAX = 4096
local Multipart = setmetatable({}, { __index = Reader })
Multipart.__index = Multipart

local function new_multipart(members, boundary)
  local self = setmetatable({ root = tree(members), members = members, single = {}, carry = "", delimiter = "--" .. (boundary or ""),
    parts = 0, heads = 0, state = "content", first = true }, Multipart)
  for _, path in ipairs(members) do
    if not path:find("[.*]") then self.single[#self.single + 1] = path end
  end
  if not boundary or not boundary:find("^[%w'()+_,./:=?-]+$") or #boundary > 70 then self.why = "the Content-Type is malformed" end
  return self
end

local PARTS = "the parts of the body can be read in more than one way"

local function escaped(text) return (text:gsub("[^%w_.$%[%]-]", function(c) return ("%%%02X"):format(c:byte()) end)) end

function Multipart:names(head)
  local names = {}
  if not require("body").part_names(names, head, self.newline, self.members) then return self:fail(PARTS) end
  local kind = ("\n" .. head):lower():match("\ncontent%-type:[ \t]*([^;\r\n]*)") or ""
  if not names[1] or kind:find("json", 1, true) or kind:find("http", 1, true) or kind:find("multipart", 1, true) then
    return self:fail("a part of the body is a body of its own")
  end
  for _, name in ipairs(names) do
    local decoded = percent(name)                   -- as it is, and as clients that escape it mean it
    for _, text in ipairs { name, decoded ~= name and decoded or nil } do
      if #text > NAME_MAX then return self:fail("the body has a name that is too long") end
      if not self:keep(nodes_of(self, text, escaped(text), text), {}) then return nil end
    end
  end
  return true
end

-- Takes what it can of `s` from `i` on. The next index | false: there is not enough | nil: unreadable
function Multipart:step(s, i, last)
  local delimiter = self.delimiter
  if self.state == "end" then
    self.epilogue = (self.epilogue or 0) + #s - i + 1
    if self.epilogue > EPILOGUE_MAX or s:find("%S", i) then return self:fail(PARTS) end
    return #s + 1
  elseif self.state == "content" then
    local from, to = s:find(delimiter, i, true)
    if not from then
      if last then return self:fail(PARTS) end
      return false
    end
    if #s < to + 2 and not last then return false end
    self.newline = self.newline or s:sub(to + 1, to + 2):match("^\r?\n") or "\r\n"
    local before = (not self.first or from ~= 1) and s:sub(math.max(from - 2, 1), from - 1) or self.newline
    if before:match("\r?\n$") ~= self.newline then return self:fail(PARTS) end
    if s:sub(to + 1, to + 2) == "--" then
      self.state, self.done = "end", true
      return to + 3
    end
    self.parts = self.parts + 1
    if s:sub(to + 1, to + #self.newline) ~= self.newline or self.parts >= PARTS_MAX then return self:fail(PARTS) end
    self.state = "head"
    return to + 1
  end
  -- the head begins with the line end of its delimiter, so that an empty one ends, too
  local stop, to = s:find(self.newline .. self.newline, i, true)
  if not stop then
    if last or #s - i > HEAD_MAX then return self:fail(PARTS) end
    return false
  end
  local head = s:sub(i + #self.newline, stop + #self.newline - 1)
  self.heads = self.heads + #head
  if #head > HEAD_MAX or self.heads > HEADS_MAX or head:find(delimiter, 1, true) then return self:fail(PARTS) end
  if not self:names(head) then return nil end
  self.state = "content"
  return to + 1
end

function Multipart:feed(text, last)
  if self.why then return nil, self.why end
  local s, i = self.carry .. text, 1
  while i <= #s or last and self.state ~= "end" do
    local j = self:step(s, i, last)
    if j == nil then return nil, self.why end
    if not j then break end
    i = j
  end
  local keep = i
  if self.state == "content" then
    -- what may be the beginning of a delimiter, with the line end before it
    keep = math.max(self.first and i == 1 and 1 or i - 2, #s - #self.delimiter - 3, 1)
  end
  if keep > 1 then self.first = false end
  self.carry = self.state == "end" and "" or s:sub(keep)
  return true
end

-- ---- one body --------------------------------------------------------------------------------------

function M.new(kind, members, boundary)
  local r = kind == "json" and new_json(members) or kind == "form" and new_form(members) or new_multipart(members, boundary)
  r.kind, r.values, r.count, r.bytes = kind, {}, 0, 0
  return r
end

--- true | nil, why
function M.whole(reader, text, pause)
  for at = 1, math.max(#text, 1), M.TURN do
    if at > 1 then pause() end
    local ok, why = reader:feed(text:sub(at, at + M.TURN - 1), at + M.TURN > #text)
    if not ok then return nil, why end
  end
  return true
end

local waiting, last = {}, 0                             -- id -> { req, reader, ask }
local ids = setmetatable({}, { __mode = "k" })          -- request -> its id

function M.late(req, reader, ask)
  last = last + 1
  ids[req], waiting[last] = last, { req = req, reader = reader, ask = ask }
  req:reads(last)
end

--- The request is decided anew.
function M.forget(req)
  local id = ids[req]
  if not id then return end
  req:reads(0)
  ids[req], waiting[id] = nil, nil
end

function M.settle(req, time)
  local id = ids[req]
  local e = id and waiting[id]
  if not e then return nil end
  req:reads(0)
  ids[req], waiting[id] = nil, nil
  local _, why = M.whole(e.reader, req:view().body or "", function() time.sleep(0) end)
  return e.ask(why)
end

local BEHIND = "the body goes on where it should have ended, so that servers may read it in different ways"

-- Asks the rules once they can be. why: the body cannot be read. true: it goes on
local function judge(e, why)
  e.asked, e.skips = true, why ~= nil
  local ok, code, message, hint, options = pcall(e.ask, why)
  if ok and not code then return true end
  if not ok then
    require("host").log("ev=rule_failed err=" .. require("errors").quote(require("errors").place(code)))
    code, message, hint, options = "rule_failed", nil, nil, nil
  end
  require("errors").fail(e.req, code, message, hint, options)
  return false
end

--- C has a piece of the body, of which nothing went on yet. what: "end": it is the last one; "gone": the request has ended. true: it
-- may go on; else the request was refused.
function M.piece(what, id, text)
  local e = waiting[id]
  if what == "gone" then
    waiting[id] = nil
    return true
  end
  if not e then return false end
  if e.skips then return true end       -- no rule needs what cannot be read
  local ok, why = e.reader:feed(text, what == "end")
  if not e.asked and (not ok or e.reader.done) then return judge(e, why) end
  if ok then return true end
  require("errors").fail(e.req, "rule_denied", BEHIND)
  return false
end

return M
