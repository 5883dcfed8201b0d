--- Texts and tables in columns. Help has the terminal's width, or the 80 that every terminal has at least.
local M = { WIDTH = 80 }

local FOLD_MIN = 16       -- a narrower column is no column: a word a line

local function width(s) return utf8.len(s) or #s end

-- Pieces in lines of at most `room` columns, joined by a space; a piece that is wider has a line of its own.
local function filled(pieces, room)
  local lines = {}
  for _, piece in ipairs(pieces) do
    local last = lines[#lines]
    if last and width(last) + 1 + width(piece) <= room then
      lines[#lines] = last .. " " .. piece
    else
      lines[#lines + 1] = piece
    end
  end
  return lines
end

local function words(text)
  local list = {}
  for word in text:gmatch("%S+") do list[#list + 1] = word end
  return list
end

--- Prose in lines of at most `room` columns; `indent` is what every line but the first begins with.
function M.fill(text, room, indent)
  indent = indent or ""
  return table.concat(filled(words(text), room - #indent), "\n" .. indent)
end

-- A cell in lines of at most `room` columns, broken at spaces and behind commas. A longer word has a line of its own.
local function folded(text, room)
  local lines, line = {}, nil
  for word in text:gmatch("%S+") do
    local gap = " "
    for piece in word:gsub(",", ",\0"):gmatch("[^%z]+") do
      if line and width(line) + #gap + width(piece) <= room then
        line = line .. gap .. piece
      else
        lines[#lines + 1] = line
        line = piece
      end
      gap = ""
    end
  end
  lines[#lines + 1] = line
  return lines
end

-- The columns' widths in `room`: the widest give way, to one width; nil where that would be too narrow to read, or a word
-- is longer than its column.
local function shares(rows, count, room)
  local natural, least = {}, {}
  for j = 1, count do natural[j], least[j] = 0, 0 end
  for _, row in ipairs(rows) do
    for j = 1, count do
      natural[j] = math.max(natural[j], width(row[j] or ""))
      for piece in (row[j] or ""):gsub(",", ", "):gmatch("%S+") do least[j] = math.max(least[j], width(piece)) end
    end
  end
  local function fits(most)
    local sum, list = 2 * (count - 1), {}
    for j = 1, count do
      list[j] = math.max(least[j], math.min(natural[j], most))
      sum = sum + list[j]
    end
    return sum <= room and list
  end
  for most = math.max(room, FOLD_MIN), FOLD_MIN, -1 do
    local list = fits(most)
    if list then return list end
  end
end

-- A row whose cells stand below each other: the first by itself, the others with what the head calls them.
local function stacked(lines, row, head, room, dye, paint)
  if row[1] and row[1] ~= "" then lines[#lines + 1] = head and paint("head", row[1]) or dye(1, row[1], row) end
  local most = 0
  for j = 2, #row do most = math.max(most, width(head and head[j] or "")) end
  local indent = most > 0 and most + 4 or 2
  for j = 2, #row do
    for i, line in ipairs(folded(row[j], room - indent)) do
      local name = i == 1 and head and head[j] or ""
      lines[#lines + 1] = ("  " .. name .. (" "):rep(indent - 2 - width(name))):gsub("%s+$", line == "" and "" or "%0") .. dye(j, line, row)
    end
  end
end

--- Rows of cells as a table of at most `room` columns. how = { head = cells | nil, indent = columns at the left,
-- paint(what, text), meaning(column, row) -> what | nil }. Cells are folded where they have no room; where that would be
-- too narrow, each row's cells stand below each other.
function M.table(rows, room, how)
  local all, lines = { how.head }, {}
  table.move(rows, 1, #rows, #all + 1, all)
  local count = 0
  for _, row in ipairs(all) do count = math.max(count, #row) end
  local left = (" "):rep(how.indent or 0)
  local widths = shares(all, count, room - #left)
  local function dye(j, text, row)
    local what = how.meaning and how.meaning(j, row)
    return what and how.paint(what, text) or text
  end
  for i, row in ipairs(all) do
    local is_head = how.head ~= nil and i == 1
    if not widths then
      if not is_head then stacked(lines, row, how.head, room, dye, how.paint) end
    else
      local cells, high = {}, 1
      for j = 1, count do
        local cell = row[j] or ""
        cells[j] = width(cell) > widths[j] and folded(cell, widths[j]) or { cell }
        high = math.max(high, #cells[j])
      end
      for k = 1, high do
        local parts, last = {}, 0
        for j = 1, count do
          if (cells[j][k] or "") ~= "" then last = j end
        end
        for j = 1, last do
          local text = cells[j][k] or ""
          parts[j] = (is_head and text or dye(j, text, row)) .. (j < last and (" "):rep(widths[j] - width(text)) or "")
        end
        local line = left .. table.concat(parts, "  ")
        lines[#lines + 1] = is_head and how.paint("head", line) or line
      end
    end
  end
  return table.concat(lines, "\n")
end

--- Rows { left, right } as two columns, the right one folded; a left cell wider than `most` has lines of its own.
function M.pairs(rows, most)
  local col, lines = 0, {}
  most = math.min(most, M.WIDTH - FOLD_MIN - 4)
  for _, r in ipairs(rows) do
    if width(r[1]) <= most then col = math.max(col, width(r[1])) end
  end
  for _, r in ipairs(rows) do
    local left, gap = "  " .. r[1], col - width(r[1])
    if gap < 0 then
      lines[#lines + 1], left, gap = M.command(left, ""), "  ", col
    end
    for i, text in ipairs(filled(words(r[2]), M.WIDTH - col - 4)) do
      lines[#lines + 1] = (i == 1 and left .. (" "):rep(gap) or (" "):rep(col + 2)) .. "  " .. text
    end
  end
  return table.concat(lines, "\n")
end

-- A command's words as a shell splits them, quotes kept; an option stays with its value.
local function shell_pieces(text)
  local list, at = {}, 1
  while at <= #text do
    local from, quote = at, nil
    while at <= #text do
      local c = text:sub(at, at)
      if c == quote then quote = nil elseif not quote and c:find("[\"']") then quote = c end
      if c == " " and not quote then break end
      at = at + 1
    end
    local piece, last = text:sub(from, at - 1), list[#list]
    if last and last:find("^%-%-[%w-]+$") and not piece:find("^%-%-") then
      list[#list] = last .. " " .. piece
    elseif piece ~= "" then
      list[#list + 1] = piece
    end
    at = at + 1
  end
  return list
end

--- A command that may be pasted as it is printed, on as many lines as it needs. Not one with a comment, and no table.
function M.command(text, joint)
  if width(text) <= M.WIDTH or text:find(" # ", 1, true) or text:find("%S   +%S") then return text end
  local indent = text:match("^ *")
  return indent .. table.concat(filled(shell_pieces(text), M.WIDTH - #indent - 6), (joint or " \\") .. "\n" .. indent .. "    ")
end

--- A help text: paragraphs are filled, commands that are too long are continued, tables stay as they are.
function M.text(text)
  local out, prose = {}, {}
  local function flush()
    table.move(filled(prose, M.WIDTH), 1, #filled(prose, M.WIDTH), #out + 1, out)
    prose = {}
  end
  for line in text:gsub(" *\\\n *", "\0"):gmatch("([^\n]*)\n") do
    local one = line:gsub("%z", " ")
    if one:find("^%S") then
      table.move(words(one), 1, #words(one), #prose + 1, prose)
    else
      flush()
      local kept = line:gsub("%z", " \\\n      ")
      local fits = true
      for part in (kept .. "\n"):gmatch("([^\n]*)\n") do fits = fits and width(part) <= M.WIDTH end
      out[#out + 1] = fits and kept or M.command(one)
    end
  end
  flush()
  return table.concat(out, "\n") .. "\n"
end

--- A text that was made for 80 columns, where there are fewer.
function M.narrow(text) return M.WIDTH < 80 and M.text(text) or text end

return M
