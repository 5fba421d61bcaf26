from specialization.main import console

if __name__ == "__main__":
  console()
